import CEBPF

/// Programs that only read a packet's headers: what others are measured against.
public final class HeaderReader {
  private let object: BPFObject
  private let program: PacketBalancer.Program

  public init(_ program: PacketBalancer.Program) throws(EBPFError) {
    self.program = program
    object = try BPFObject("parse", EmbeddedObjects.parse)
    try object.load()
  }

  /// Nanoseconds that a program takes for a frame.
  public func run(_ frame: [UInt8]) throws(EBPFError) -> UInt32 {
    try object.run(program, program == .tc ? "tc_parse" : "xdp_parse", frame).nanoseconds
  }
}

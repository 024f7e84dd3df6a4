import CEBPF
import Glibc

/// An object of bpf/ on its way into the kernel.
@safe
final class BPFObject {
  let name: String
  private let object: kalsae_bpf_object

  init(_ name: String, _ digits: StaticString) throws(EBPFError) {
    self.name = name
    let bytes = BPFObject.decode(digits)
    var object: kalsae_bpf_object?
    kalsae_bpf_log_clear()
    let result = unsafe bytes.withUnsafeBytes { unsafe kalsae_bpf_open($0.baseAddress!, $0.count, name, &object) }
    guard result == 0, let object = unsafe object else {
      throw EBPFError("object \(name) cannot be opened", code: -result, hint: BPFObject.log)
    }
    unsafe self.object = object
  }

  deinit { unsafe kalsae_bpf_close(object) }

  /// The octets that a string of hexadecimal digits stands for.
  static func decode(_ digits: StaticString) -> [UInt8] {
    digits.withUTF8Buffer { text in
      func value(_ digit: UInt8) -> UInt8 { digit < 58 ? digit &- 48 : digit &- 87 }
      return stride(from: 0, to: text.count, by: 2).map { unsafe value(text[$0]) << 4 | value(text[$0 + 1]) }
    }
  }

  private static var log: String { unsafe VerifierLog.shortened(String(cString: kalsae_bpf_log())) }

  func resize(_ map: String, _ entries: Int) throws(EBPFError) {
    try check(unsafe kalsae_bpf_map_resize(object, map, UInt32(clamping: entries)), "object \(name): map \(map)")
  }

  /// Gives the maps of the service tables their sizes.
  func resize(_ capacity: ServiceMirror.Capacity) throws(EBPFError) {
    try resize("frontends", capacity.frontends)
    try resize("frontend_rec", capacity.frontends)
    try resize("services", capacity.services)
    try resize("lists", capacity.lists)
    try resize("backends", capacity.backends)
    try resize("members", capacity.members)
    try resize("ranges", capacity.ranges)
  }

  func reuse(_ map: String, _ descriptor: Descriptor) throws(EBPFError) {
    try check(unsafe kalsae_bpf_map_reuse(object, map, descriptor.number), "object \(name): map \(map)")
  }

  func setConstant(at offset: Int, _ value: UInt8) throws(EBPFError) {
    try check(unsafe kalsae_bpf_constant(object, offset, value), "object \(name): constants")
  }

  func leaveOut(_ program: String) throws(EBPFError) {
    try check(unsafe kalsae_bpf_program_disable(object, program), "object \(name): program \(program)")
  }

  /// Makes the maps, has the programs verified and loads them.
  func load() throws(EBPFError) {
    kalsae_bpf_log_clear()
    let result = unsafe kalsae_bpf_load(object)
    guard result < 0 else { return }
    let log = BPFObject.log
    let what = "the kernel does not take object \(name)"
    // What root may not is what the verifier refuses.
    if geteuid() == 0, !log.isEmpty { throw EBPFError(what, code: -result, hint: "it says:\n\(log)") }
    try check(result, what, hint: log.isEmpty ? "it did not say why" : "it says:\n\(log)")
  }

  /// Runs a program on a frame, which goes nowhere; the loopback device stands for the one that it came in by.
  func run(
    _ kind: PacketBalancer.Program, _ program: String, _ frame: [UInt8], segment: UInt32 = 0, repeating: UInt32 = 1
  ) throws(EBPFError) -> (frame: [UInt8], result: UInt32, nanoseconds: UInt32) {
    var octets = frame + [UInt8](repeating: 0, count: 256)
    var capacity = UInt32(octets.count)
    var result: UInt32 = 0
    var nanoseconds: UInt32 = 0
    let number = try self.program(program)
    let error = unsafe octets.withUnsafeMutableBytes { buffer in
      kind == .tc
        ? unsafe kalsae_bpf_run(
          number, 1, 0, segment, buffer.baseAddress!, UInt32(frame.count), &capacity, repeating, &result, &nanoseconds)
        : unsafe kalsae_bpf_run_xdp(
          number, buffer.baseAddress!, UInt32(frame.count), &capacity, repeating, &result, &nanoseconds)
    }
    try check(error, "cannot run \(program)")
    return (Array(octets.prefix(Int(capacity))), result, nanoseconds)
  }

  func map(_ map: String) throws(EBPFError) -> Descriptor {
    let number = try check(unsafe kalsae_bpf_map_fd(object, map), "object \(name): map \(map)")
    return Descriptor(try check(fcntl(number, F_DUPFD_CLOEXEC, 0), "object \(name): map \(map)"))
  }

  func program(_ program: String) throws(EBPFError) -> Int32 {
    try check(unsafe kalsae_bpf_program_fd(object, program), "object \(name): program \(program)")
  }
}

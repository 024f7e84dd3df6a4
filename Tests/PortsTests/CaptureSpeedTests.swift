import Dataplane
import Testing

@testable import Ports

#if !DEBUG
  /// Speed means something in optimised builds only; in others this test does not exist.
  @Suite("Speed of captures")
  struct CaptureSpeedTests {
    @Test("a capture of a million small packets is read in less than a second")
    func reads() throws {
      let scratch = Scratch()
      let packet = arp + [UInt8](repeating: 0, count: 22)
      let path = scratch.file(
        "big.pcap",
        pcap(magic: 0xa1b2_3c4d, [])
          + [UInt8]((0..<1_000_000 as Range<UInt32>).map { record($0 / 1000, $0 % 1000, packet) }.joined()))
      let port = try CapturePort(path: path)
      var batch = FrameBatch()
      var count = 0
      let start = ContinuousClock.now
      while case let n = port.receive(into: &batch), n > 0 {
        count += n
        port.release(&batch)
      }
      let time = ContinuousClock.now - start
      print("capture: \(count) packets in \(time)")
      #expect(count == 1_000_000)
      #expect(time < .seconds(1))
    }
  }
#endif

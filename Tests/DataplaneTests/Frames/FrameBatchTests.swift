import Testing

@testable import Dataplane

/// Frames, and the list of them that goes through the pipeline.
@Suite struct FrameBatchTests {
  private func withFrame(_ body: (inout Frame) -> Void) {
    var arena = FrameArena(capacity: 512)
    var frame = arena.frame(length: 100, headroom: 128)!
    body(&frame)
  }

  @Test("A frame is a cache line, and lies in one")
  func layout() {
    #expect(MemoryLayout<Frame>.stride == 64)
    for capacity in [1, 3, 256] {
      let batch = FrameBatch(capacity: capacity)
      let address = unsafe Int(bitPattern: batch.frames)
      #expect(address % 64 == 0)
    }
  }

  @Test("Frames that are received know the port that they came in by; those that wait keep theirs")
  func ingress() {
    withFrame { frame in
      frame.port = PortIndex(7)
      var received = FrameBatch()
      received.ingress = PortIndex(3)
      received.append(frame)
      #expect(received[0].port == PortIndex(3))
      var kept = FrameBatch()
      kept.append(frame)
      kept.append(received[0])
      #expect(kept[0].port == PortIndex(7) && kept[1].port == PortIndex(3) && kept.count == 2)
    }
  }

  @Test(
    "What a capture lacks is still counted when headers are pushed and pulled, and not when the packet's end is known")
  func wireLength() {
    withFrame { frame in
      #expect(frame.wireLength == 100)
      frame.wireLength = 1514
      frame.push(50)
      #expect(frame.length == 150 && frame.wireLength == 1564)
      frame.pull(64)
      #expect(frame.length == 86 && frame.wireLength == 1500)
      // Never less than there is.
      frame.wireLength = 3
      #expect(frame.wireLength == 86)
      frame.wireLength = 200
      frame.narrow(from: 6, length: 60)
      #expect(frame.length == 60 && frame.wireLength == 60)
      frame.wireLength = 200
      frame.setLength(70)
      #expect(frame.length == 70 && frame.wireLength == 70)
    }
  }
}

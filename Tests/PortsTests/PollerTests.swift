import Dataplane
import Glibc
import Testing

@testable import Ports

@Suite("Poller, memory and loop ports")
struct PollerTests {
  @Test("a descriptor is reported as long as it is readable, and no more once it is removed")
  func levels() throws {
    let poller = try Poller()
    let other = try Poller()
    // A pipe stands for a port.
    var ends: [Int32] = [0, 0]
    try #require(unsafe pipe(&ends) == 0)
    defer { for end in ends { close(end) } }
    try poller.add(ends[0], port: PortIndex(5))
    #expect(poller.wait(nanoseconds: 0) == 0)
    #expect(unsafe write(ends[1], "x", 1) == 1)
    for _ in 0..<2 {
      #expect(poller.wait(nanoseconds: 1_000_000_000) == 1)
      #expect(poller.ready(0) == PortIndex(5))
    }
    poller.remove(ends[0])
    #expect(poller.wait(nanoseconds: 0) == 0)
    #expect(throws: PortError.self) { try other.add(-1, port: PortIndex(0)) }
  }

  @Test("another thread can wake a waiting poller, once per wake")
  func wakes() throws {
    let poller = try Poller()
    let waker = poller.waker
    startThread {
      usleep(20_000)
      waker.wake()
      waker.wake()
    }
    let start = ContinuousClock.now
    #expect(poller.wait(nanoseconds: 10_000_000_000) == 0)
    #expect(ContinuousClock.now - start < .seconds(5))
    usleep(5000)
    poller.wait(nanoseconds: 0)
    let again = ContinuousClock.now
    #expect(poller.wait(nanoseconds: 30_000_000) == 0)
    #expect(ContinuousClock.now - again >= .milliseconds(29))
  }

  @Test("a memory port delivers what was put in and keeps what was sent, with its metadata")
  func memory() {
    let port = MemoryPort(slots: 2)
    let frames = [
      MemoryFrame([1, 2, 3], timestamp: 9, wireLength: 60),
      MemoryFrame(
        [UInt8](repeating: 4, count: 65_560), partialChecksumStart: 34, partialChecksumOffset: 16,
        segmentation: .tcp6, segmentSize: 1440),
      MemoryFrame([5], checksumVerified: true),
    ]
    for frame in frames { port.enqueue(frame) }
    var batch = FrameBatch()
    var list = FrameList()
    #expect(port.receive(into: &batch) == 2, "as many as there are slots")
    #expect(batch[0].flags == .truncated)
    list.append(1)
    list.append(0)
    // What the pipeline pushes before the packet leaves the checksum where it is in the buffer.
    batch[1].push(50)
    #expect(port.transmit(batch, list) == 2)
    port.release(&batch)
    let sent = port.takeOutbox()
    #expect(sent[0].octets.count == 65_610 && sent[0].partialChecksumStart == 84)
    #expect(sent[0].segmentation == .tcp6 && sent[0].segmentSize == 1440)
    #expect(sent[1] == frames[0])
    #expect(port.receive(into: &batch) == 1)
    #expect(batch[0].flags == .checksumVerified)
    port.release(&batch)
    port.transmitLimit = 0
    port.isFinished = true
    #expect(port.isExhausted)
    #expect(port.statistics.receivedFrames == 3)
  }

  @Test("a loop port delivers its templates again, untouched by what the pipeline did to the last round")
  func loop() {
    let port = LoopPort(templates: [MemoryFrame([1, 2, 3, 4]), MemoryFrame([5, 6, 7, 8])], count: 5)
    var batch = FrameBatch()
    var seen: [[UInt8]] = []
    for expected in [2, 2, 1, 0] {
      #expect(port.receive(into: &batch) == expected)
      for i in 0..<batch.count {
        seen.append(batch[i].octets.array)
        batch[i].push(2)
        batch[i].octets.fill(0, from: 0, count: 6)
      }
      port.release(&batch)
    }
    #expect(seen == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]])
    #expect(port.isExhausted)
  }
}

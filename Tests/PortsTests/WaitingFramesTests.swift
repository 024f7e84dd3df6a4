import Dataplane
import Ports
import Testing

/// What waited in a process's ports, as the next one reads it.
@Suite("Waiting frames")
struct WaitingFramesTests {
  private static let owner = "01234567-89ab-cdef-0123-456789abcdef"

  private func port(_ frames: [MemoryFrame]) -> MemoryPort {
    let port = MemoryPort(slots: 2)
    for frame in frames { port.enqueue(frame) }
    return port
  }

  private let frames: [MemoryFrame] = {
    var tunnelled = MemoryFrame(
      (0..<9000).map { UInt8(truncatingIfNeeded: $0) }, timestamp: 1 << 60, partialChecksumStart: 34,
      partialChecksumOffset: 16, segmentation: .tcp6, segmentSize: 1448)
    tunnelled.tunnelLength = 50
    return [
      MemoryFrame([1, 2, 3], timestamp: 7, wireLength: 70_000), tunnelled,
      MemoryFrame([UInt8](repeating: 9, count: 65_549), checksumVerified: true, segmentation: .udp, segmentSize: 1200),
    ]
  }()

  @Test("frames come out of the octets as they went in, with all that ports know of them, port by port and in order")
  func roundTrip() throws {
    var waiting = WaitingFrames(time: 1 << 40)
    waiting.take(from: port(frames), named: "underlay")
    waiting.take(from: port([frames[0]]), named: "kal0")
    waiting.take(from: port([]), named: "nothing")
    #expect(waiting.count == 4 && waiting.frames["underlay"] == frames && waiting.frames["nothing"] == nil)
    let read = try #require(WaitingFrames(waiting.octets(owner: Self.owner), owner: Self.owner))
    #expect(read.frames == waiting.frames && read.time == 1 << 40)
  }

  @Test("no more is taken than there is room for; what is left stays in the port")
  func bound() {
    let port = port(Array(repeating: MemoryFrame([UInt8](repeating: 0, count: 100)), count: 50))
    var waiting = WaitingFrames(time: 0, limit: 1000)
    waiting.take(from: port, named: "a")
    #expect(waiting.count == 10)
    waiting.take(from: port, named: "a")
    #expect(waiting.count == 10)
  }

  @Test("what belongs to another start of the machine, or is cut or damaged anywhere, is not read and does no harm")
  func damage() throws {
    var waiting = WaitingFrames(time: 5)
    waiting.take(from: port([frames[0], MemoryFrame([4, 5])]), named: "kal0")
    let octets = waiting.octets(owner: Self.owner)
    #expect(WaitingFrames(octets, owner: "another") == nil && WaitingFrames([], owner: Self.owner) == nil)
    let start = try #require(WaitingFrames(Array(octets.prefix(60)), owner: Self.owner))
    #expect(start.count == 0)
    for length in 0..<octets.count where length != 60 {
      #expect(WaitingFrames(Array(octets.prefix(length)), owner: Self.owner) == nil, "\(length) octets")
    }
    for position in octets.indices {
      for bit in 0..<8 {
        var bent = octets
        bent[position] ^= 1 << UInt8(bit)
        // Whatever it is read as, each frame is one that a port takes.
        guard let read = WaitingFrames(bent, owner: Self.owner) else { continue }
        for frame in read.frames.values.joined() { #expect(frame.octets.count <= octets.count) }
      }
    }
  }
}

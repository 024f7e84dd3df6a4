import Addresses
import Testing

@testable import Dataplane

@Suite struct SegmenterTests {
  /// All segments of a super-frame as octets, made with a batch and an arena of the sizes given.
  private func cut(
    _ superFrame: SuperFrame, finishChecksum: Bool = true, batch capacity: Int = 256, arena size: Int = 256 << 10,
    check: (inout Frame) -> Void = { _ in }
  ) throws -> [[UInt8]] {
    var memory = FrameArena()
    var arena = FrameArena(capacity: size)
    var batch = FrameBatch(capacity: capacity)
    let frame = superFrame.frame(in: &memory)
    var plan = try #require(SegmentPlan(frame, superFrame.layout, finishChecksum: finishChecksum))
    var result: [[UInt8]] = []
    while !plan.isComplete {
      let count = plan.emit(into: &batch, arena: &arena)
      try #require(count > 0 && count == batch.count, "a stuck plan")
      for index in 0..<count {
        check(&batch[index])
        result.append(batch[index].octets.array)
        expect(batch[index].segmentation == .none && batch[index].headroom >= Headroom.minimum)
        expect(batch[index].port == frame.port && batch[index].timestamp == 77)
      }
      batch.removeAll()
      arena.reset()
    }
    expect(result.count == plan.count)
    expect(frame.octets.array == superFrame.octets, "the super-frame stays as it was")
    return result
  }

  @Test("TUN-9 segments equal those made in the plainest way", arguments: Wrapping.allCases, Inner.allCases)
  func agreesWithTheReference(_ wrapping: Wrapping, _ inner: Inner) throws {
    var random = SeededGenerator(UInt64(Wrapping.allCases.firstIndex(of: wrapping)! * 10))
    for round in 0..<6 {
      let size = [1, 2, 7, 536, 1391, 1460][round]
      let superFrame = SuperFrame(
        wrapping, inner, payloadLength: Int.random(in: 0...(size * 12), using: &random), segmentSize: size, &random)
      let expected = superFrame.segments
      let actual = try cut(superFrame)
      #expect(actual == expected, "size \(size)")
      // What the segments carry is what the super-frame carried.
      #expect(actual.flatMap { $0[superFrame.payload...] } == Array(superFrame.octets[superFrame.payload...]))
    }
  }

  @Test("TUN-9 partial checksums of segments complete to the same", arguments: Inner.allCases)
  func leavesChecksumsPartial(_ inner: Inner) throws {
    var random = SeededGenerator(11)
    for wrapping in [Wrapping.none, .tagged] {
      let superFrame = SuperFrame(wrapping, inner, payloadLength: 9_999, segmentSize: 1448, &random)
      let actual = try cut(superFrame, finishChecksum: false) { frame in
        expect(frame.flags.contains(.checksumPartial) == (inner != .udp4NoChecksum))
        expect(frame.completeChecksum())
      }
      #expect(actual == superFrame.segments)
    }
  }

  @Test("TUN-9 under an outer header checksums are finished whatever the port takes")
  func finishesUnderATunnel() throws {
    var random = SeededGenerator(12)
    let superFrame = SuperFrame(.vxlan, .tcp4, payloadLength: 5_000, segmentSize: 1400, &random)
    let actual = try cut(superFrame, finishChecksum: false) { expect(!$0.flags.contains(.checksumPartial)) }
    #expect(actual == superFrame.segments)
  }

  @Test func goesOnWhereTheBatchWasFull() throws {
    var random = SeededGenerator(13)
    let superFrame = SuperFrame(.vxlanChecksum, .tcp4Options, payloadLength: 64_000, segmentSize: 500, &random)
    let expected = superFrame.segments
    #expect(expected.count == 128)
    #expect(try cut(superFrame, batch: 7) == expected)
    #expect(try cut(superFrame, arena: 4096) == expected, "a full arena")
    #expect(try cut(superFrame) == expected)
  }

  @Test func aWholeSuperFrameFitsTheStandardArena() throws {
    var random = SeededGenerator(14)
    let superFrame = SuperFrame(.vxlan6Checksum, .tcp6, payloadLength: 65_000, segmentSize: 536, &random)
    var memory = FrameArena()
    var arena = FrameArena()
    var batch = FrameBatch()
    var plan = try #require(SegmentPlan(superFrame.frame(in: &memory), superFrame.layout))
    #expect(plan.emit(into: &batch, arena: &arena) == 122)
    #expect(plan.isComplete)
  }

  @Test("CWR goes in the first segment alone, FIN and PSH in the last alone; other flags in all")
  func flags() throws {
    var random = SeededGenerator(15)
    var superFrame = SuperFrame(.none, .tcp4, payloadLength: 300, segmentSize: 100, &random)
    superFrame.octets[superFrame.transport + 13] = 0xff
    let flags = try cut(superFrame).map { TCPFlags(rawValue: $0[superFrame.transport + 13]) }
    let always: TCPFlags = [.syn, .rst, .ack, .urg, .ece]
    #expect(flags == [always.union(.cwr), always, always.union([.fin, .psh])])
  }

  @Test func numbersWrapAround() throws {
    var random = SeededGenerator(16)
    var superFrame = SuperFrame(.greAll, .tcp4, payloadLength: 1_000, segmentSize: 100, &random)
    superFrame.octets.replaceSubrange((superFrame.transport + 4)..<(superFrame.transport + 8), with: bytes("ffffff80"))
    superFrame.octets.replaceSubrange((superFrame.network + 4)..<(superFrame.network + 6), with: bytes("fffe"))
    superFrame.octets.replaceSubrange((superFrame.outer! + 4)..<(superFrame.outer! + 6), with: bytes("ffff"))
    let segments = try cut(superFrame)
    #expect(segments == superFrame.segments)
    #expect(Array(segments[2][(superFrame.transport + 4)..<(superFrame.transport + 8)]) == bytes("00000048"))
    #expect(Array(segments[2][(superFrame.network + 4)..<(superFrame.network + 6)]) == bytes("0000"))
    // The sequence number of GRE starts at fffffffe.
    #expect(Array(segments[3][(superFrame.gre! + 12)..<(superFrame.gre! + 16)]) == bytes("00000001"))
  }

  @Test func refusesWhatIsNoSuperFrame() {
    var random = SeededGenerator(17)
    var arena = FrameArena()
    let superFrame = SuperFrame(.vxlan, .tcp4, payloadLength: 3_000, segmentSize: 1000, &random)
    let good = superFrame.frame(in: &arena)
    let layout = superFrame.layout
    #expect(SegmentPlan(good, layout) != nil)
    var frame = good
    frame.segmentation = .none
    #expect(SegmentPlan(frame, layout) == nil)
    frame = good
    frame.segmentSize = 0
    #expect(SegmentPlan(frame, layout) == nil)
    for other in [Segmentation.tcp6, .udp] {
      frame = good
      frame.segmentation = other
      #expect(SegmentPlan(frame, layout) == nil)
    }
    // Every truncation inside the headers.
    for length in 0..<superFrame.payload {
      frame = good
      frame.setLength(length)
      #expect(SegmentPlan(frame, layout) == nil, "length \(length)")
    }
  }

  @Test func hostileLayoutsAndHeadersNeverTrap() {
    var random = SeededGenerator(18)
    var accepted = 0
    for _ in 0..<20_000 {
      var memory = FrameArena(capacity: 16384)
      var arena = FrameArena(capacity: 32768)
      var batch = FrameBatch(capacity: 64)
      var superFrame = SuperFrame(
        Wrapping.allCases.randomElement(using: &random)!, Inner.allCases.randomElement(using: &random)!,
        payloadLength: Int.random(in: 0...300, using: &random), segmentSize: Int.random(in: 1...200, using: &random),
        &random)
      for _ in 0..<Int.random(in: 0...3, using: &random) {
        superFrame.octets[Int.random(in: 12..<superFrame.payload, using: &random)] = .random(
          in: 0...255, using: &random)
      }
      if Bool.random(using: &random) { superFrame.payload += Int.random(in: -60...60, using: &random) }
      if Bool.random(using: &random) { superFrame.transport += Int.random(in: -60...60, using: &random) }
      if Int.random(in: 0...9, using: &random) == 0 { superFrame.outerUDP = Int.random(in: 0...500, using: &random) }
      if Int.random(in: 0...9, using: &random) == 0 { superFrame.gre = Int.random(in: 0...500, using: &random) }
      var frame = memory.frame(length: superFrame.octets.count)!
      frame.octets.copy(from: superFrame.octets, to: 0)
      frame.segmentation = superFrame.segmentation
      frame.segmentSize = UInt16(superFrame.segmentSize)
      if var plan = SegmentPlan(frame, superFrame.layout) {
        accepted += 1
        _ = plan.emit(into: &batch, arena: &arena)
      }
    }
    #expect(accepted > 1_000, "or nothing was tried")
  }
}

@Suite struct HeaderLayoutTests {
  @Test(arguments: Inner.allCases) func isReadFromAFrame(_ inner: Inner) {
    var random = SeededGenerator(19)
    for wrapping in [Wrapping.none, .tagged] {
      let superFrame = SuperFrame(wrapping, inner, payloadLength: 100, segmentSize: 50, &random)
      edited(superFrame.octets) { octets in
        let layout = HeaderLayout(ethernet: octets)
        #expect(layout == superFrame.layout)
      }
      for length in 0..<superFrame.payload {
        edited(Array(superFrame.octets[..<length])) { octets in expect(HeaderLayout(ethernet: octets) == nil) }
      }
    }
  }

  @Test func movesAlongWithHeaders() {
    var layout = HeaderLayout(network: 14, transport: 34, payload: 54)
    layout.encapsulate(shift: 50, outerNetwork: 14, outerUDP: 34)
    #expect(layout.network == 64 && layout.transport == 84 && layout.payload == 104)
    #expect(layout.outerNetwork == 14 && layout.outerUDP == 34 && layout.gre == nil)
    layout.shift(by: 4)
    #expect(layout.network == 68 && layout.outerNetwork == 18 && layout.outerUDP == 38 && layout.gre == nil)
  }

  @Test("TUN-8 a fragment has no layout") func refusesFragments() {
    edited(bytes("4500001c 000720b9 40113f04 0a010203 0a040506 3132333435363738")) { octets in
      expect(HeaderLayout(octets, network: 0) == nil)
    }
  }
}

@Suite struct ChecksumCompletionTests {
  @Test("TUN-9 a partial checksum is completed") func completes() {
    // The field holds the sum of the pseudo header: 0a01 + 0203 + 0a04 + 0506 + 0011 + 000d.
    var arena = FrameArena(capacity: 4096)
    var frame = arena.frame(length: 33)!
    frame.octets.copy(from: bytes("45000021 00010000 40115fbe 0a010203 0a040506 003514e9 000d1b2c 68656c6c6f"), to: 0)
    frame.setPartialChecksum(transport: 20, offset: 6)
    // Pushing a header does not move the checksum.
    frame.push(8)
    expect(frame.completeChecksum())
    #expect(!frame.flags.contains(.checksumPartial))
    frame.pull(8)
    expect(frame.octets[u16: 26] == 0x8bd6)
    expect(frame.completeChecksum(), "nothing more to do")
    expect(frame.octets[u16: 26] == 0x8bd6)
  }

  @Test("TUN-9 a computed UDP checksum of 0 goes out as 0xffff, other transports' as 0") func zero() {
    for (offset, expected) in [(6, UInt16(0xffff)), (16, 0)] {
      var arena = FrameArena(capacity: 4096)
      var frame = arena.frame(length: 40)!
      frame.octets.fill(from: 0, count: 40)
      frame.octets[u16: 20] = 0xffff
      frame.setPartialChecksum(transport: 20, offset: offset)
      expect(frame.completeChecksum())
      expect(frame.octets[u16: 20 + offset] == expected)
    }
  }

  @Test("TUN-9 a checksum outside the packet is refused") func refuses() {
    var arena = FrameArena(capacity: 4096)
    let original = arena.frame(length: 40)!
    original.octets.fill(0xaa, from: 0, count: 40)
    let start = UInt32(Headroom.minimum)
    let wrong: [(UInt32, UInt16)] = [
      (0, 6), (start - 1, 6), (start + 40, 0), (start + 34, 6), (start + 39, 0), (.max, 0), (start, 39), (start, .max),
      (start + 41, 0),
    ]
    for (checksumStart, checksumOffset) in wrong {
      var frame = original
      frame.flags = .checksumPartial
      frame.checksumStart = checksumStart
      frame.checksumOffset = checksumOffset
      expect(!frame.completeChecksum(), "\(checksumStart), \(checksumOffset)")
      #expect(frame.flags.contains(.checksumPartial))
    }
    var frame = original
    frame.setPartialChecksum(transport: 0, offset: 16)
    frame.segmentation = .tcp4
    expect(!frame.completeChecksum(), "a super-frame")
    expect(original.octets.array.allSatisfy { $0 == 0xaa })
  }
}

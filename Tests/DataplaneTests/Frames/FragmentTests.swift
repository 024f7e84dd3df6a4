import Addresses
import Testing

@testable import Dataplane

/// An Ethernet frame with an IPv4 packet of random payload.
private func packet(
  payloadLength: Int, options: [UInt8] = [], field: UInt16 = 0, id: UInt16 = 0x1234, _ random: inout SeededGenerator
) -> [UInt8] {
  let total = 20 + options.count + payloadLength
  var header: [UInt8] = [UInt8(0x45 + options.count / 4), 0, UInt8(total >> 8), UInt8(total & 0xff)]
  header += [UInt8(id >> 8), UInt8(id & 0xff), UInt8(field >> 8), UInt8(field & 0xff), 64, 17, 0, 0]
  header += bytes("0a010203 0a040506") + options
  let sum = slowChecksum(header)
  header[10] = UInt8(sum >> 8)
  header[11] = UInt8(sum & 0xff)
  return bytes("020000000002 020000000001 0800") + header + random.bytes(payloadLength)
}

extension FrameArena {
  /// A frame with these octets.
  mutating func frame(_ octets: [UInt8]) -> Frame {
    let frame = frame(length: octets.count)!
    frame.octets.copy(from: octets, to: 0)
    return frame
  }
}

private func fragments(_ octets: [UInt8], mtu: Int, batch capacity: Int = 256) -> [[UInt8]]? {
  var memory = FrameArena()
  var arena = FrameArena()
  var batch = FrameBatch(capacity: capacity)
  guard var plan = FragmentPlan(memory.frame(octets), network: 14, mtu: mtu) else { return nil }
  var result: [[UInt8]] = []
  while !plan.isComplete {
    guard plan.emit(into: &batch, arena: &arena) > 0 else { return nil }
    for index in 0..<batch.count { result.append(batch[index].octets.array) }
    batch.removeAll()
    arena.reset()
  }
  return result.count == plan.count ? result : nil
}

@Suite struct FragmenterTests {
  @Test func cutsAtMultiplesOfEight() throws {
    var random = SeededGenerator(20)
    let original = packet(payloadLength: 3_000, &random)
    let pieces = try #require(fragments(original, mtu: 1500))
    #expect(pieces.map(\.count) == [1514, 1514, 74])
    #expect(pieces.map { Array($0[20..<22]) } == [bytes("2000"), bytes("20b9"), bytes("0172")])
    #expect(pieces.allSatisfy { slowChecksum(Array($0[14..<34])) == 0 })
    #expect(pieces.allSatisfy { $0[..<14] == original[..<14] && $0[18..<20] == original[18..<20] })
    #expect(pieces.flatMap { $0[34...] } == Array(original[34...]))
  }

  @Test func onlyCopiedOptionsAreInLaterFragments() throws {
    var random = SeededGenerator(21)
    // No-operation, record route (not copied), stream identifier (copied), end.
    let options = bytes("01 07070400000000 8804abcd 00000000")
    let original = packet(payloadLength: 100, options: options, &random)
    let pieces = try #require(fragments(original, mtu: 68))
    #expect(Array(pieces[0][34..<50]) == options)
    for piece in pieces[1...] {
      #expect(piece[14] == 0x46)
      #expect(Array(piece[34..<38]) == bytes("8804abcd"))
      #expect(slowChecksum(Array(piece[14..<38])) == 0)
    }
    #expect(pieces[0][50...] + pieces[1...].flatMap { $0[38...] } == original[50...])
  }

  @Test("TUN-8 fragments of a fragment keep its offset, and MF in the last") func cutsFragments() throws {
    var random = SeededGenerator(22)
    let pieces = try #require(fragments(packet(payloadLength: 160, field: 0x2064, &random), mtu: 100))
    #expect(pieces.map { Array($0[20..<22]) } == [bytes("2064"), bytes("206e")])
    let last = try #require(fragments(packet(payloadLength: 161, field: 0x0064, &random), mtu: 100))
    #expect(last.map { Array($0[20..<22]) } == [bytes("2064"), bytes("206e"), bytes("0078")])
  }

  @Test func goesOnWhereTheBatchWasFull() throws {
    var random = SeededGenerator(23)
    let original = packet(payloadLength: 65_515, &random)
    let pieces = try #require(fragments(original, mtu: 68, batch: 100))
    #expect(pieces.count == 1365)
    #expect(pieces.flatMap { $0[34...] } == Array(original[34...]))
  }

  @Test func paddingIsLeftOut() throws {
    var random = SeededGenerator(24)
    let original = packet(payloadLength: 200, &random)
    #expect(fragments(original + [1, 2, 3], mtu: 100) == fragments(original, mtu: 100))
  }

  @Test("NODE-6 a packet with DF is not fragmented") func refuses() {
    var random = SeededGenerator(25)
    #expect(fragments(packet(payloadLength: 3_000, field: 0x4000, &random), mtu: 1500) == nil)
    #expect(fragments(packet(payloadLength: 3_000, &random), mtu: 67) == nil)
    #expect(fragments(packet(payloadLength: 100, options: [0x83, 0x20, 4, 0], &random), mtu: 68) == nil)
    #expect(fragments(packet(payloadLength: 100, field: 0x1fff, &random), mtu: 68) == nil)
    let whole = packet(payloadLength: 100, &random)
    for length in 0..<whole.count { #expect(fragments(Array(whole[..<length]), mtu: 68) == nil) }
    var arena = FrameArena()
    var frame = arena.frame(whole)
    frame.setPartialChecksum(transport: 34, offset: 6)
    #expect(FragmentPlan(frame, network: 14, mtu: 68) == nil)
    frame = arena.frame(whole)
    frame.segmentation = .tcp4
    #expect(FragmentPlan(frame, network: 14, mtu: 68) == nil)
  }
}

/// A piece of an IPv6 datagram with 14 octets of Ethernet and eight of destination options before the fragment header.
private func piece6(_ data: ArraySlice<UInt8>, offset: Int, more: Bool, next: UInt8 = 17) -> [UInt8] {
  let length = 16 + data.count
  return bytes("020000000002 020000000001 86dd 60000000") + [UInt8(length >> 8), UInt8(length & 0xff), 60, 64]
    + bytes("fd000000000000000000000000000001 fd000000000000000000000000000002") + [44, 0, 1, 4, 0, 0, 0, 0]
    + [next, 0, UInt8(offset >> 8), UInt8(offset & 0xf8) | (more ? 1 : 0)] + bytes("deadbeef") + data
}

@Suite struct ReassemblerTests {
  private enum Result: Equatable {
    case complete([UInt8])
    case held, duplicate
    case refused(Reassembler.Refusal)
  }

  private func insert(_ octets: [UInt8], _ reassembler: inout Reassembler, now: UInt64 = 1) -> Result {
    var arena = FrameArena()
    let frame = arena.frame(octets)
    switch reassembler.insert(frame, network: 14, now: now) {
    case .complete(let frame):
      expect(frame.headroom >= Headroom.minimum)
      return .complete(frame.octets.array)
    case .held: return .held
    case .duplicate: return .duplicate
    case .refused(let refusal): return .refused(refusal)
    }
  }

  @Test("TUN-8 fragments in any order and with copies give the packet back") func roundTrip() throws {
    var random = SeededGenerator(30)
    var reassembler = Reassembler(capacity: 4)
    for round in 0..<60 {
      let length = round == 0 ? 65_515 : Int.random(in: 1500...20_000, using: &random)
      let original = packet(payloadLength: length, id: UInt16(round), &random)
      var pieces = try #require(fragments(original, mtu: Int.random(in: 576...1400, using: &random)))
      pieces.shuffle(using: &random)
      for (index, piece) in pieces.enumerated() {
        let result = insert(piece, &reassembler)
        if index == pieces.count - 1 {
          #expect(result == .complete(original))
        } else {
          #expect(result == .held)
          #expect(insert(piece, &reassembler) == .duplicate)
        }
      }
      #expect(reassembler.count == 0)
    }
  }

  @Test("TUN-8 the first fragment's options are kept, and padding is left out") func keepsOptions() throws {
    var random = SeededGenerator(31)
    var reassembler = Reassembler(capacity: 1)
    let original = packet(payloadLength: 100, options: bytes("07070400000000 00"), &random)
    let pieces = try #require(fragments(original, mtu: 68))
    for piece in pieces[1...] { #expect(insert(piece + [9, 9], &reassembler) == .held) }
    #expect(insert(pieces[0], &reassembler) == .complete(original))
  }

  @Test("TUN-8 IPv6: the fragment header is taken out") func ipv6() {
    var random = SeededGenerator(32)
    var reassembler = Reassembler(capacity: 4)
    let data = random.bytes(3_000)
    #expect(insert(piece6(data[1440..<2880], offset: 1440, more: true), &reassembler) == .held)
    #expect(insert(piece6(data[2880...], offset: 2880, more: false), &reassembler) == .held)
    let whole =
      bytes("020000000002 020000000001 86dd 60000000") + [0x0b, 0xc0, 60, 64]
      + bytes("fd000000000000000000000000000001 fd000000000000000000000000000002") + [17, 0, 1, 4, 0, 0, 0, 0] + data
    #expect(insert(piece6(data[..<1440], offset: 0, more: true), &reassembler) == .complete(whole))
  }

  @Test(
    "TUN-8 overlapping fragments drop the datagram, and the rest of it (RFC 5722)",
    arguments: [
      (8, 16), (16, 24), (0, 8), (0, 48), (24, 32), (8, 40),
    ]) func overlap(_ start: Int, _ end: Int) throws
  {
    var random = SeededGenerator(33)
    let data = random.bytes(64)
    var reassembler = Reassembler(capacity: 4)
    #expect(insert(piece6(data[0..<24], offset: 0, more: true), &reassembler) == .held)
    #expect(insert(piece6(data[24..<48], offset: 24, more: true), &reassembler) == .held)
    #expect(insert(piece6(data[start..<end], offset: start, more: true), &reassembler) == .refused(.overlap))
    #expect(insert(piece6(data[48...], offset: 48, more: false), &reassembler) == .refused(.datagramRefused))
    #expect(reassembler.expire(now: .max) == 0)
    #expect(insert(piece6(data[48...], offset: 48, more: false), &reassembler) == .held, "when the time is up")
  }

  @Test("TUN-8 a copy with other contents is an overlap") func contradiction() {
    var random = SeededGenerator(34)
    let data = random.bytes(24)
    var reassembler = Reassembler(capacity: 4)
    #expect(insert(piece6(data[...], offset: 0, more: true), &reassembler) == .held)
    #expect(insert(piece6(data[...], offset: 0, more: true), &reassembler) == .duplicate)
    #expect(insert(piece6(random.bytes(24)[...], offset: 0, more: true), &reassembler) == .refused(.overlap))
  }

  @Test("TUN-8 fragments that disagree on the end drop the datagram") func inconsistentEnd() {
    var random = SeededGenerator(35)
    let data = random.bytes(64)
    func run(_ pieces: (Int, Int, Bool)...) -> Result {
      var reassembler = Reassembler(capacity: 4)
      var last = Result.held
      for (start, end, more) in pieces {
        #expect(last == .held)
        last = insert(piece6(data[start..<end], offset: start, more: more), &reassembler)
      }
      return last
    }
    #expect(run((32, 48, false), (48, 56, true)) == .refused(.inconsistentEnd), "more behind the end")
    #expect(run((48, 56, true), (32, 48, false)) == .refused(.inconsistentEnd), "an end before what came")
    #expect(run((32, 48, false), (48, 56, false)) == .refused(.inconsistentEnd), "two ends")
    #expect(run((32, 48, false), (8, 24, false)) == .refused(.inconsistentEnd), "two ends")
    #expect(run((32, 48, false), (32, 48, true)) == .refused(.inconsistentEnd), "a copy that is not the last")
    #expect(run((32, 48, true), (32, 48, false)) == .refused(.inconsistentEnd), "a copy that is the last")
  }

  @Test("TUN-8 what is no honest fragment is refused") func refuses() {
    var random = SeededGenerator(36)
    var reassembler = Reassembler(capacity: 4)
    func v4(_ length: Int, _ field: UInt16) -> [UInt8] { packet(payloadLength: length, field: field, &random) }
    #expect(insert(v4(16, 0x4000), &reassembler) == .refused(.notAFragment))
    #expect(insert(v4(17, 0x2000), &reassembler) == .refused(.malformed), "no multiple of eight")
    #expect(insert(v4(0, 0x2001), &reassembler) == .refused(.malformed), "empty")
    #expect(insert(v4(16, 0x3fff), &reassembler) == .refused(.tooLong))
    #expect(insert(v4(8, 0x1fff), &reassembler) == .refused(.tooLong), "65528 + 8 octets")
    #expect(insert(v4(7, 0x1fff), &reassembler) == .held)
    var tcp = v4(16, 0x2000)
    tcp[23] = 6
    #expect(insert(tcp, &reassembler) == .refused(.tinyFragment))
    #expect(
      insert(piece6([1, 2, 3, 4, 5, 6, 7, 8], offset: 0, more: true, next: 6), &reassembler) == .refused(.tinyFragment))
    #expect(
      insert(piece6([6, 9, 3, 4, 5, 6, 7, 8], offset: 0, more: true, next: 60), &reassembler) == .refused(.tinyFragment)
    )
    #expect(insert(piece6([1, 2, 3, 4, 5, 6, 7, 8], offset: 0, more: false), &reassembler) == .refused(.notAFragment))
    let whole = v4(16, 0x2000)
    for length in 0..<whole.count {
      #expect(insert(Array(whole[..<length]), &reassembler) == .refused(.malformed), "length \(length)")
    }
    let six = piece6([1, 2, 3, 4, 5, 6, 7, 8], offset: 8, more: true)
    for length in 0..<six.count {
      #expect(insert(Array(six[..<length]), &reassembler) == .refused(.malformed), "length \(length)")
    }
  }

  @Test("TUN-8 header and payload beyond 65535 octets are refused when whole") func tooLong() throws {
    var random = SeededGenerator(37)
    var reassembler = Reassembler(capacity: 4)
    #expect(insert(packet(payloadLength: 32_768, field: 0x2000, &random), &reassembler) == .held)
    #expect(insert(packet(payloadLength: 32_767, field: 0x1000, &random), &reassembler) == .refused(.tooLong))
  }

  @Test("TUN-5 a mark on one fragment marks the datagram; with Not-ECT it is dropped") func marks() {
    func run(_ first: UInt8, _ second: UInt8) -> [UInt8]? {
      var random = SeededGenerator(38)
      var reassembler = Reassembler(capacity: 4)
      var a = packet(payloadLength: 16, field: 0x2000, &random)
      var b = packet(payloadLength: 16, field: 0x0002, &random)
      a[15] = first
      b[15] = second
      _ = insert(a, &reassembler)
      guard case .complete(let octets) = insert(b, &reassembler) else { return nil }
      #expect(slowChecksum(Array(octets[14..<34])) == 0)
      return octets
    }
    #expect(run(2, 2)?[15] == 2)
    #expect(run(2, 3)?[15] == 3)
    #expect(run(3, 1)?[15] == 3)
    #expect(run(3, 0) == nil)
  }

  @Test("TUN-8 time and room are bounded") func bounds() {
    var random = SeededGenerator(39)
    var reassembler = Reassembler(capacity: 4, timeout: 100)
    func first(_ id: UInt16) -> [UInt8] { packet(payloadLength: 16, field: 0x2000, id: id, &random) }
    func last(_ id: UInt16) -> [UInt8] { packet(payloadLength: 5, field: 0x0002, id: id, &random) }
    #expect(insert(first(1), &reassembler, now: 0) == .held)
    #expect(insert(last(1), &reassembler, now: 100) == .held, "the first is forgotten")
    #expect(reassembler.expired == 1)
    #expect(reassembler.expire(now: 199) == 0)
    #expect(reassembler.expire(now: 200) == 1)
    #expect(reassembler.count == 0)
    for id in UInt16(10)...14 { #expect(insert(first(id), &reassembler, now: 300 + UInt64(id)) == .held) }
    #expect(reassembler.count == 4)
    #expect(reassembler.evicted == 1, "the oldest gave way")
    #expect(insert(last(10), &reassembler, now: 320) == .held)
    guard case .complete = insert(last(14), &reassembler, now: 321) else {
      Issue.record("not complete")
      return
    }
    // Too many pieces in one datagram.
    var result = Result.held
    for index in 0..<300 where result == .held {
      result = insert(
        packet(payloadLength: 8, field: 0x2000 | UInt16(index * 2), id: 99, &random), &reassembler, now: 322)
    }
    #expect(result == .refused(.tooManyFragments))
  }

  @Test func hostileFragmentsNeverTrap() {
    var random = SeededGenerator(40)
    var reassembler = Reassembler(capacity: 3, timeout: 50)
    var complete = 0
    for now in UInt64(0)..<30_000 {
      let more = Bool.random(using: &random)
      let offset = Int.random(in: 0...3, using: &random) * 8
      let length = Int.random(in: 1...2, using: &random) * 8
      var octets =
        Bool.random(using: &random)
        ? packet(
          payloadLength: length, field: (more ? 0x2000 : 0) | UInt16(offset / 8),
          id: UInt16.random(in: 0...3, using: &random),
          &random) : piece6(random.bytes(length)[...], offset: offset, more: more)
      if Int.random(in: 0...3, using: &random) == 0 {
        octets[Int.random(in: 14..<octets.count, using: &random)] = .random(in: 0...255, using: &random)
      }
      if Int.random(in: 0...9, using: &random) == 0 { octets.removeLast(Int.random(in: 0...20, using: &random)) }
      if case .complete = insert(octets, &reassembler, now: now) { complete += 1 }
    }
    #expect(complete > 100, "or nothing was tried")
  }
}

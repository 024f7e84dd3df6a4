import Testing

@testable import Dataplane

/// The octets of a hexadecimal text; white space is left out.
func bytes(_ hex: String) -> [UInt8] {
  let digits = Array(hex.filter { !$0.isWhitespace })
  precondition(digits.count % 2 == 0)
  return stride(from: 0, to: digits.count, by: 2).map { UInt8(String(digits[$0...($0 + 1)]), radix: 16)! }
}

/// Runs `body` on a view of a copy of `bytes` and returns the copy as `body` left it.
@discardableResult
func edited(_ bytes: [UInt8], _ body: (Octets) throws -> Void) rethrows -> [UInt8] {
  var copy = bytes
  try withOctets(&copy) { try body($0) }
  return copy
}

/// `#expect` for expressions about views: the macro takes its expression apart, and cannot with types that do not escape.
func expect(_ condition: Bool, _ comment: Comment? = nil, sourceLocation: SourceLocation = #_sourceLocation) {
  #expect(condition, comment, sourceLocation: sourceLocation)
}

/// Feeds `parse`, which says whether a view could be made, every truncation of `bytes`: it must succeed from `minimum`
/// octets on and fail below.
func expectTruncations(
  of bytes: [UInt8], needing minimum: Int, sourceLocation: SourceLocation = #_sourceLocation,
  _ parse: (Octets) -> Bool
) {
  for length in 0...bytes.count {
    edited(Array(bytes[..<length])) {
      expect(parse($0) == (length >= minimum), "length \(length)", sourceLocation: sourceLocation)
    }
  }
}

/// A small generator whose numbers are the same in every run (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64

  init(_ seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8.random(in: 0...255, using: &self) } }
}

/// The checksum of RFC 1071 in the most plain way: big-endian words, one after the other. Returns the field's value.
func slowChecksum(_ parts: [UInt8]...) -> UInt16 {
  var sum: UInt32 = 0
  let data = parts.flatMap { $0 }
  for index in stride(from: 0, to: data.count, by: 2) {
    sum += UInt32(data[index]) << 8 | (index + 1 < data.count ? UInt32(data[index + 1]) : 0)
    if sum > 0xffff { sum = sum - 0x1_0000 + 1 }
  }
  return ~UInt16(sum)
}

/// The pseudo header of RFC 9293, section 3.1 or RFC 8200, section 8.1 as octets, for the IP header at `network`.
func pseudoHeader(_ packet: [UInt8], network: Int, protocol: UInt8, length: Int) -> [UInt8] {
  if packet[network] >> 4 == 4 {
    return Array(packet[(network + 12)..<(network + 20)]) + [0, `protocol`, UInt8(length >> 8), UInt8(length & 0xff)]
  }
  return Array(packet[(network + 8)..<(network + 40)])
    + [UInt8(length >> 24 & 0xff), UInt8(length >> 16 & 0xff), UInt8(length >> 8 & 0xff), UInt8(length & 0xff)]
    + [0, 0, 0, `protocol`]
}

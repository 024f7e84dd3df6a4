import CDataplane
import Testing

/// Frames whose checksum the sender has left to the device, as AF_XDP shows them.
@Suite("Unfinished checksums")
struct UnfinishedChecksumTests {
  private static func sum(_ octets: [UInt8]) -> UInt32 {
    var total: UInt32 = 0
    for (index, octet) in octets.enumerated() { total += index % 2 == 0 ? UInt32(octet) << 8 : UInt32(octet) }
    while total > 0xffff { total = (total & 0xffff) + (total >> 16) }
    return total
  }

  private static func put(_ value: UInt32, at offset: Int, in octets: inout [UInt8]) {
    octets[offset] = UInt8(value >> 8 & 0xff)
    octets[offset + 1] = UInt8(value & 0xff)
  }

  /// An IP packet with a transport whose checksum is unfinished, and the same finished.
  private static func packet(_ transport: UInt8, isIPv6: Bool, payload: [UInt8]) -> (before: [UInt8], after: [UInt8]) {
    let addresses: [UInt8] = isIPv6 ? (0..<32).map { UInt8($0) } : [10, 1, 0, 1, 10, 1, 0, 2]
    var body: [UInt8] =
      transport == 6
      ? [0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]
      : [0x04, 0xd2, 0x13, 0x88, 0, 0, 0, 0]
    let field = transport == 6 ? 16 : 6
    body += payload
    if transport == 17 { put(UInt32(body.count), at: 4, in: &body) }
    let pseudo = addresses + [0, transport, UInt8(body.count >> 8), UInt8(body.count & 0xff)]
    let head: [UInt8] =
      isIPv6
      ? [0x60, 0, 0, 0, UInt8(body.count >> 8), UInt8(body.count & 0xff), transport, 64] + addresses
      : [0x45, 0, UInt8((body.count + 20) >> 8), UInt8((body.count + 20) & 0xff), 0, 1, 0x40, 0, 64, transport, 0, 0]
        + addresses
    put(sum(pseudo), at: field, in: &body)
    let before = head + body
    let finished = sum(body) ^ 0xffff
    put(finished == 0 ? (transport == 17 ? 0xffff : 0) : finished, at: field, in: &body)
    return (before, head + body)
  }

  private static let ethernet: [UInt8] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]

  private static func type(_ isIPv6: Bool) -> [UInt8] { isIPv6 ? [0x86, 0xdd] : [8, 0] }

  /// What may stand before the packet in a tunnel, by the inner packet's family and length.
  private static let tunnels: [(name: String, header: @Sendable (Bool, Int) -> [UInt8])] = [
    ("none", { isIPv6, _ in ethernet + type(isIPv6) }),
    ("VLAN", { isIPv6, _ in ethernet + [0x81, 0, 0, 7] + type(isIPv6) }),
    ("IPIP", { isIPv6, length in ethernet + [8, 0] + outer(isIPv6 ? 41 : 4, length) }),
    (
      "GRE",
      { isIPv6, length in ethernet + [8, 0] + outer(47, length + 8) + [0x20, 0] + type(isIPv6) + [0, 0, 0, 9] }
    ),
    (
      "VXLAN",
      { isIPv6, length in
        ethernet + [8, 0] + outer(17, length + 30) + udp(4789, length + 30) + [8, 0, 0, 0, 0, 16, 0, 0] + ethernet
          + type(isIPv6)
      }
    ),
    (
      "Geneve",
      { isIPv6, length in
        ethernet + [8, 0] + outer(17, length + 34) + udp(6081, length + 34) + [1, 0, 0x65, 0x58, 0, 16, 0, 0]
          + [0, 0, 0, 0] + ethernet + type(isIPv6)
      }
    ),
  ]

  private static func outer(_ transport: UInt8, _ length: Int) -> [UInt8] {
    [0x45, 0, UInt8((length + 20) >> 8), UInt8((length + 20) & 0xff), 0, 1, 0x40, 0, 64, transport, 0, 0]
      + [10, 0, 0, 1, 10, 0, 0, 2]
  }

  private static func udp(_ port: UInt16, _ length: Int) -> [UInt8] {
    [0xc0, 0, UInt8(port >> 8), UInt8(port & 0xff), UInt8(length >> 8), UInt8(length & 0xff), 0, 0]
  }

  private func finish(_ frame: [UInt8], length: Int? = nil) -> (frame: [UInt8], isChanged: Bool) {
    // In memory of its own, so that a sanitizer sees every octet too many.
    let count = length ?? frame.count
    let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: max(1, count))
    defer { unsafe memory.deallocate() }
    for index in 0..<count { unsafe memory[index] = frame[index] }
    let result = unsafe kalsae_finish_checksum(memory, UInt32(count))
    return ((0..<count).map { unsafe memory[$0] }, result != 0)
  }

  @Test("TUN-9 they are finished, TCP's and UDP's, over both families, alone and in tunnels; once, and no more")
  func finishes() {
    for (name, header) in UnfinishedChecksumTests.tunnels {
      for transport: UInt8 in [6, 17] {
        for isIPv6 in [false, true] {
          for size in [0, 1, 2, 3, 18, 1300] {
            let payload = (0..<size).map { UInt8(truncatingIfNeeded: $0 * 7 + 3) }
            let (before, after) = UnfinishedChecksumTests.packet(transport, isIPv6: isIPv6, payload: payload)
            let head = header(isIPv6, before.count)
            let first = finish(head + before)
            #expect(first.isChanged && first.frame == head + after, "\(name) \(transport) \(isIPv6) \(size)")
            let second = finish(first.frame)
            #expect(second.frame == first.frame, "\(name) \(transport) \(isIPv6) \(size)")
          }
        }
      }
    }
  }

  @Test("SCTP's, which is a CRC32c (RFC 9260)")
  func sctp() {
    // Source port, destination port, tag, checksum, a COOKIE ACK.
    let body: [UInt8] = [0, 7, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 11, 0, 0, 4]
    let frame = UnfinishedChecksumTests.ethernet + [8, 0] + UnfinishedChecksumTests.outer(132, body.count) + body
    var crc: UInt32 = ~0
    for octet in body {
      crc ^= UInt32(octet)
      for _ in 0..<8 { crc = crc & 1 == 1 ? crc >> 1 ^ 0x82f6_3b78 : crc >> 1 }
    }
    crc = ~crc
    let result = finish(frame)
    #expect(result.isChanged)
    let expected: [UInt8] = (0..<4).map { (octet: UInt32) in UInt8(truncatingIfNeeded: crc >> (8 * octet)) }
    #expect(Array(result.frame[42..<46]) == expected)
  }

  @Test("no other octet is touched, however the frame is cut, and fragments and UDP without a checksum are left alone")
  func leaves() {
    for (name, header) in UnfinishedChecksumTests.tunnels {
      for isIPv6 in [false, true] {
        let (before, _) = UnfinishedChecksumTests.packet(17, isIPv6: isIPv6, payload: [1, 2, 3])
        let frame = header(isIPv6, before.count) + before
        for length in 0..<frame.count {
          let result = finish(frame, length: length)
          #expect(!result.isChanged && result.frame == Array(frame[..<length]), "\(name) \(isIPv6) \(length)")
        }
      }
    }
    var (before, _) = UnfinishedChecksumTests.packet(17, isIPv6: false, payload: [1, 2, 3])
    let head = UnfinishedChecksumTests.ethernet + [8, 0]
    before[6] = 0x20
    #expect(!finish(head + before).isChanged)
    before[6] = 0
    (before[26], before[27]) = (0, 0)
    #expect(!finish(head + before).isChanged)
  }
}

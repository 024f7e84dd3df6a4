import Addresses

@testable import Dataplane

/// What is put around the packet that is cut.
enum Wrapping: String, CaseIterable, Sendable {
  case none, tagged, ipip, ipipOptions, ip6, vxlan, vxlanChecksum, vxlan6Checksum, geneve, gre, greAll, greEthernet,
    greChecksum6
}

/// The packet that is cut.
enum Inner: String, CaseIterable, Sendable {
  case tcp4, tcp4Options, tcp6, tcp6Extended, udp4, udp4NoChecksum, udp6
}

/// A super-frame as plain octets, and where its headers are.
struct SuperFrame {
  var octets: [UInt8] = []
  var outer: Int?
  var outerUDP: Int?
  var gre: Int?
  var network = 0
  var transport = 0
  var payload = 0
  var inner: Inner
  var segmentSize: Int

  var segmentation: Segmentation {
    switch inner {
    case .tcp4, .tcp4Options: .tcp4
    case .tcp6, .tcp6Extended: .tcp6
    case .udp4, .udp4NoChecksum, .udp6: .udp
    }
  }

  var layout: HeaderLayout {
    let base = outer == nil ? 0 : 1000
    var layout = HeaderLayout(network: network - base, transport: transport - base, payload: payload - base)
    if let outer { layout.encapsulate(shift: base, outerNetwork: outer, outerUDP: outerUDP, gre: gre) }
    return layout
  }

  /// A super-frame with random contents. Lengths and checksums of the headers are random too: cutting sets them all.
  init(_ wrapping: Wrapping, _ inner: Inner, payloadLength: Int, segmentSize: Int, _ random: inout SeededGenerator) {
    self.inner = inner
    self.segmentSize = segmentSize
    let ethernet: [UInt8] = bytes("020000000002 020000000001")
    octets = ethernet
    let innerType: [UInt8] = segmentation == .tcp6 || inner == .udp6 ? [0x86, 0xdd] : [8, 0]
    func ipv4(_ protocolNumber: UInt8, options: [UInt8] = []) -> [UInt8] {
      var random = random
      let first = UInt8(0x45 + options.count / 4)
      return [first, 0xb9] + random.bytes(4) + [0x40, 0, 64, protocolNumber] + random.bytes(10) + options
    }
    func ipv6(_ next: UInt8) -> [UInt8] {
      var random = random
      return bytes("6b9abcde") + random.bytes(2) + [next, 64] + random.bytes(32)
    }
    func udp(_ port: UInt16, checksum: Bool) -> [UInt8] {
      [0xc0, 1, UInt8(port >> 8), UInt8(port & 0xff), 9, 9] + (checksum ? [0x12, 0x34] : [0, 0])
    }
    let isIPv6 = innerType == [0x86, 0xdd]
    let inIP: UInt8 = isIPv6 ? 41 : 4
    switch wrapping {
    case .none: octets += innerType
    case .tagged: octets += [0x81, 0, 0, 7] + innerType
    case .ipip, .ipipOptions:
      octets += [8, 0]
      outer = octets.count
      octets += ipv4(inIP, options: wrapping == .ipip ? [] : [7, 7, 4, 1, 2, 3, 4, 0])
    case .ip6:
      octets += [0x86, 0xdd]
      outer = octets.count
      octets += ipv6(inIP)
    case .vxlan, .vxlanChecksum, .vxlan6Checksum:
      octets += wrapping == .vxlan6Checksum ? [0x86, 0xdd] : [8, 0]
      outer = octets.count
      octets += wrapping == .vxlan6Checksum ? ipv6(17) : ipv4(17)
      outerUDP = octets.count
      octets += udp(4789, checksum: wrapping != .vxlan) + bytes("0800000000100000") + ethernet + innerType
    case .geneve:
      octets += [8, 0]
      outer = octets.count
      octets += ipv4(17)
      outerUDP = octets.count
      octets += udp(6081, checksum: false) + bytes("0200655800100000 0102000101020304") + ethernet + innerType
    case .gre, .greAll, .greChecksum6:
      octets += wrapping == .greChecksum6 ? [0x86, 0xdd] : [8, 0]
      outer = octets.count
      octets += wrapping == .greChecksum6 ? ipv6(47) : ipv4(47)
      gre = octets.count
      switch wrapping {
      case .gre: octets += [0, 0] + innerType
      case .greAll: octets += [0xb0, 0] + innerType + bytes("12340000 01020304 fffffffe")
      default: octets += [0x80, 0] + innerType + bytes("12340000")
      }
    case .greEthernet:
      octets += [8, 0]
      outer = octets.count
      octets += ipv4(47)
      gre = octets.count
      octets += bytes("30006558 01020304 00000005") + ethernet + innerType
    }
    network = octets.count
    switch inner {
    case .tcp4: octets += ipv4(6)
    case .tcp4Options: octets += ipv4(6, options: [1, 7, 3, 4])
    case .udp4, .udp4NoChecksum: octets += ipv4(17)
    case .tcp6: octets += ipv6(6)
    case .tcp6Extended: octets += ipv6(60) + [6, 0, 1, 4, 0, 0, 0, 0]
    case .udp6: octets += ipv6(17)
    }
    transport = octets.count
    if segmentation == .udp {
      octets += udp(53, checksum: inner != .udp4NoChecksum)
    } else {
      let hasOptions = inner != .tcp6
      octets += random.bytes(12) + [hasOptions ? 0x80 : 0x50, UInt8.random(in: 0...255, using: &random)]
      octets += random.bytes(6) + (hasOptions ? random.bytes(12) : [])
    }
    payload = octets.count
    octets += random.bytes(payloadLength)
  }

  /// The frame in the memory of `arena`.
  func frame(in arena: inout FrameArena) -> Frame {
    var frame = arena.frame(length: octets.count)!
    frame.octets.copy(from: octets, to: 0)
    frame.segmentation = segmentation
    frame.segmentSize = UInt16(segmentSize)
    frame.timestamp = 77
    frame.port = PortIndex(3)
    if inner != .udp4NoChecksum {
      frame.setPartialChecksum(transport: transport, offset: segmentation == .udp ? 6 : 16)
    }
    return frame
  }

  /// The segments, made in the plainest way: copy, set each field, compute each checksum in full.
  var segments: [[UInt8]] {
    let headers = Array(octets[..<payload])
    let data = Array(octets[payload...])
    let starts = data.isEmpty ? [0] : Array(stride(from: 0, to: data.count, by: segmentSize))
    return starts.enumerated().map { index, start in
      var s = headers + data[start..<min(start + segmentSize, data.count)]
      let isLast = index == starts.count - 1
      func number(_ value: Int, _ width: Int, at offset: Int) {
        for i in 0..<width { s[offset + i] = UInt8(value >> (8 * (width - 1 - i)) & 0xff) }
      }
      func read(_ width: Int, at offset: Int) -> Int { (0..<width).reduce(0) { $0 << 8 | Int(s[offset + $1]) } }
      func finishIP(_ offset: Int) {
        if s[offset] >> 4 == 4 {
          number(s.count - offset, 2, at: offset + 2)
          number(read(2, at: offset + 4) + index, 2, at: offset + 4)
          number(0, 2, at: offset + 10)
          number(Int(slowChecksum(Array(s[offset..<(offset + Int(s[offset] & 15) * 4)]))), 2, at: offset + 10)
        } else {
          number(s.count - offset - 40, 2, at: offset + 4)
        }
      }
      func finishTransport(_ offset: Int, network: Int, protocolNumber: UInt8, field: Int) {
        number(0, 2, at: offset + field)
        let length = s.count - offset
        let sum = slowChecksum(
          pseudoHeader(s, network: network, protocol: protocolNumber, length: length), Array(s[offset...]))
        number(sum == 0 && protocolNumber == 17 ? 0xffff : Int(sum), 2, at: offset + field)
      }
      finishIP(network)
      if segmentation == .udp {
        number(s.count - transport, 2, at: transport + 4)
        if inner != .udp4NoChecksum { finishTransport(transport, network: network, protocolNumber: 17, field: 6) }
      } else {
        number(read(4, at: transport + 4) + start, 4, at: transport + 4)
        if index > 0 { s[transport + 13] &= ~0x80 }
        if !isLast { s[transport + 13] &= ~0x09 }
        finishTransport(transport, network: network, protocolNumber: 6, field: 16)
      }
      if let gre {
        var offset = gre + 4
        if s[gre] & 0x80 != 0 { offset += 4 }
        if s[gre] & 0x20 != 0 { offset += 4 }
        if s[gre] & 0x10 != 0 { number(read(4, at: offset) + index, 4, at: offset) }
        if s[gre] & 0x80 != 0 {
          number(0, 4, at: gre + 4)
          number(Int(slowChecksum(Array(s[gre...]))), 2, at: gre + 4)
        }
      }
      if let outer {
        finishIP(outer)
        if let outerUDP {
          number(s.count - outerUDP, 2, at: outerUDP + 4)
          if read(2, at: outerUDP + 6) != 0 {
            finishTransport(outerUDP, network: outer, protocolNumber: 17, field: 6)
          }
        }
      }
      return s
    }
  }
}

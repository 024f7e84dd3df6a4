/// A super-frame that is being cut into ordinary frames: as the kernel's software segmentation does, with tunnel headers
/// already in front.
///
/// `SegmentPlan(frame, layout, …)` checks the frame once and sums what all segments share; `emit` makes segments as long
/// as batch and arena have room and can be called again when they were sent, until `isComplete`. The octets of the
/// super-frame must stay as they are until then.
///
/// What differs from segment to segment: lengths and identification of IPv4, payload length of IPv6, TCP sequence number
/// and flags (FIN and PSH in the last only, CWR in the first only: RFC 3168, section 6.1.2), UDP lengths, GRE sequence
/// numbers, and all checksums over them. An outer UDP checksum of 0 stays 0 (TUN-9).
public struct SegmentPlan: BitwiseCopyable {
  let frame: Frame
  let layout: HeaderLayout
  let finishChecksum: Bool
  let isTCP: Bool
  let isIPv4: Bool
  let outerIsIPv4: Bool
  /// The outer UDP datagram has a checksum.
  let outerUDPChecksum: Bool
  let greFields: GREHeader.Fields
  /// The inner UDP datagrams have checksums.
  let transportChecksum: Bool

  let identification: UInt16
  let outerIdentification: UInt16
  let sequenceNumber: UInt32
  let greSequenceNumber: UInt32
  let flags: TCPFlags

  /// The pseudo header without length.
  let pseudoSum: InternetChecksum
  /// The pseudo header without length, and the transport header without what changes.
  let transportSum: InternetChecksum
  /// The IPv4 headers without total length, identification and checksum.
  let networkSum: InternetChecksum
  let outerNetworkSum: InternetChecksum
  /// The pseudo header of the outer UDP datagram without length.
  let outerPseudoSum: InternetChecksum

  /// The number of segments in all: GRE sequence numbers and identifications are used up in that number.
  public let count: Int
  /// The number of segments made so far.
  public private(set) var emitted = 0

  public var isComplete: Bool { emitted == count }

  /// Nil where the frame is no super-frame, or its headers are not what `layout` and the kind of segmentation say.
  ///
  /// With `finishChecksum` false the segments leave with partial checksums, for a port that takes them; under an outer
  /// header checksums are always finished.
  public init?(_ frame: Frame, _ layout: HeaderLayout, finishChecksum: Bool = true) {
    let octets = frame.octets
    let size = Int(frame.segmentSize)
    guard frame.segmentation != .none, size > 0, layout.network >= 0, layout.transport > layout.network,
      layout.payload > layout.transport, layout.payload <= octets.count
    else { return nil }
    self.frame = frame
    self.layout = layout
    self.finishChecksum = finishChecksum || layout.outerNetwork != nil
    isTCP = frame.segmentation != .udp
    let payloadLength = octets.count - layout.payload
    count = max(1, (payloadLength + size - 1) / size)
    // The longest segment must fit the length fields of the outermost header.
    let longest = layout.payload + min(size, payloadLength) - (layout.outerNetwork ?? layout.network)
    guard longest <= 65535 else { return nil }

    // The packet that is cut.
    let expected: IPProtocol = isTCP ? .tcp : .udp
    if let header = IPv4Header(octets.dropping(layout.network)) {
      guard frame.segmentation != .tcp6, header.protocol == expected, !header.isFragment,
        layout.network + header.headerLength == layout.transport
      else { return nil }
      isIPv4 = true
      identification = header.identification
      networkSum = SegmentPlan.sum(header)
      pseudoSum = header.pseudoHeader(length: 0)
    } else if let header = IPv6Header(octets.dropping(layout.network)) {
      guard frame.segmentation != .tcp4, layout.network + 40 <= layout.transport else { return nil }
      isIPv4 = false
      identification = 0
      networkSum = InternetChecksum()
      pseudoSum = header.pseudoHeader(expected, length: 0)
    } else {
      return nil
    }
    var sum = pseudoSum
    if isTCP {
      guard let tcp = TCPHeader(octets.dropping(layout.transport)),
        layout.transport + tcp.headerLength == layout.payload
      else { return nil }
      sequenceNumber = tcp.sequenceNumber
      flags = tcp.flags
      transportChecksum = true
      sum.add(native: tcp.octets[u32Native: 0])
      sum.add(native: tcp.octets[u32Native: 8])
      sum.add(native: tcp.octets[u16Native: 14])
      sum.add(native: tcp.octets[u16Native: 18])
      sum.add(octets.prefix(layout.payload).dropping(layout.transport + 20))
    } else {
      guard layout.transport + UDPHeader.length == layout.payload else { return nil }
      sequenceNumber = 0
      flags = []
      transportChecksum = frame.flags.contains(.checksumPartial) || octets[u16: layout.transport + 6] != 0
      sum.add(native: octets[u32Native: layout.transport])
    }
    transportSum = sum

    // The tunnel around it.
    var outerUDPChecksum = false
    var greFields: GREHeader.Fields = []
    var greSequenceNumber: UInt32 = 0
    if let outer = layout.outerNetwork {
      guard outer >= 0, outer < layout.network else { return nil }
      let outerEnd: Int
      if let header = IPv4Header(octets.dropping(outer)) {
        outerEnd = outer + header.headerLength
        outerIsIPv4 = true
        outerIdentification = header.identification
        outerNetworkSum = SegmentPlan.sum(header)
        outerPseudoSum = header.pseudoHeader(length: 0)
      } else if let header = IPv6Header(octets.dropping(outer)) {
        outerEnd = outer + 40
        outerIsIPv4 = false
        outerIdentification = 0
        outerNetworkSum = InternetChecksum()
        outerPseudoSum = header.pseudoHeader(.udp, length: 0)
      } else {
        return nil
      }
      guard outerEnd <= layout.network else { return nil }
      if let udp = layout.outerUDP {
        // An odd distance to the payload would turn its sum around; no header has an odd length.
        guard udp >= outerEnd, udp + UDPHeader.length <= layout.network, (layout.payload - udp) % 2 == 0 else {
          return nil
        }
        outerUDPChecksum = octets[u16: udp + 6] != 0
      }
      if let start = layout.gre {
        guard start >= outerEnd, (layout.payload - start) % 2 == 0,
          start < layout.network, let gre = GREHeader(octets.dropping(start)),
          start + gre.headerLength <= layout.network
        else { return nil }
        greFields = gre.fields
        greSequenceNumber = gre.sequenceNumber ?? 0
      }
    } else {
      guard layout.outerUDP == nil, layout.gre == nil else { return nil }
      outerIsIPv4 = false
      outerIdentification = 0
      outerNetworkSum = InternetChecksum()
      outerPseudoSum = InternetChecksum()
    }
    self.outerUDPChecksum = outerUDPChecksum
    self.greFields = greFields
    self.greSequenceNumber = greSequenceNumber
  }

  /// Makes the next segments and returns their number: as many as batch and arena have room for.
  ///
  /// Segments have the headroom of any received frame, and carry over port, time and VLAN tag of the super-frame.
  public mutating func emit(into batch: inout FrameBatch, arena: inout FrameArena) -> Int {
    let first = emitted
    while emitted < count, !batch.isFull {
      let offset = emitted * Int(frame.segmentSize)
      let size = min(Int(frame.segmentSize), Int(frame.length) - layout.payload - offset)
      guard let made = arena.frame(length: layout.payload + size) else { break }
      fill(made.octets, offset: offset, size: size)
      var segment = made
      segment.timestamp = frame.timestamp
      segment.port = frame.port
      segment.vlanTPID = frame.vlanTPID
      segment.vlanTCI = frame.vlanTCI
      segment.flags = frame.flags.intersection(.vlanStripped)
      segment.slot = frame.slot
      if !finishChecksum, transportChecksum {
        segment.setPartialChecksum(transport: layout.transport, offset: isTCP ? 16 : 6)
      }
      batch.append(segment)
      emitted &+= 1
    }
    return emitted - first
  }
}

extension SegmentPlan {
  /// The sum of an IPv4 header without total length, identification and checksum.
  private static func sum(_ header: IPv4Header) -> InternetChecksum {
    var sum = InternetChecksum()
    sum.addHeader(header.octets, header.headerLength)
    // What is left out is added as its complement.
    sum.add(native: ~header.octets[u16Native: 2])
    sum.add(native: ~header.octets[u16Native: 4])
    sum.add(native: ~header.octets[u16Native: 10])
    return sum
  }

  /// Copies headers and a slice of the payload, and sets what this segment has of its own, from the inside out.
  @inline(__always)
  private func fill(_ octets: Octets, offset: Int, size: Int) {
    let source = frame.octets
    octets.copy(from: source.prefix(layout.payload), to: 0)
    let slice = source.dropping(layout.payload + offset).prefix(size)
    var payloadSum: UInt64 = 0
    if finishChecksum {
      payloadSum = octets.copySumming(from: slice, to: layout.payload)
    } else {
      octets.copy(from: slice, to: layout.payload)
    }

    let transport = octets.dropping(layout.transport)
    var sum = transportSum
    sum.addLength(transport.count)
    if isTCP {
      var flags = self.flags
      if emitted > 0 { flags.remove(.cwr) }
      if emitted < count - 1 { flags.subtract([.fin, .psh]) }
      transport[u32: 4] = sequenceNumber &+ UInt32(truncatingIfNeeded: offset)
      transport[13] = flags.rawValue
      sum.add(native: transport[u32Native: 4])
      sum.add(native: transport[u16Native: 12])
      sum.add(sum: payloadSum)
      transport[u16Native: 16] = finishChecksum ? sum.complement : partialSum(transport.count)
    } else {
      transport[u16: 4] = UInt16(truncatingIfNeeded: transport.count)
      sum.add(native: transport[u16Native: 4])
      sum.add(sum: payloadSum)
      if transportChecksum {
        transport[u16Native: 6] = finishChecksum ? sum.udpComplement : partialSum(transport.count)
      }
    }

    let index = UInt16(truncatingIfNeeded: emitted)
    let network = octets.dropping(layout.network)
    if isIPv4 {
      SegmentPlan.finish(network, identification &+ index, networkSum)
    } else {
      network[u16: 4] = UInt16(truncatingIfNeeded: network.count - 40)
    }
    guard let outer = layout.outerNetwork else { return }
    finishTunnel(octets, octets.dropping(outer), payloadSum)
  }

  private func partialSum(_ length: Int) -> UInt16 {
    var sum = pseudoSum
    sum.addLength(length)
    return sum.folded
  }

  @inline(__always)
  private func finishTunnel(_ octets: Octets, _ outer: Octets, _ payloadSum: UInt64) {
    if outerIsIPv4 {
      SegmentPlan.finish(outer, outerIdentification &+ UInt16(truncatingIfNeeded: emitted), outerNetworkSum)
    } else {
      outer[u16: 4] = UInt16(truncatingIfNeeded: outer.count - 40)
    }
    if let start = layout.outerUDP {
      let udp = octets.dropping(start)
      udp[u16: 4] = UInt16(truncatingIfNeeded: udp.count)
      if outerUDPChecksum {
        udp[u16Native: 6] = 0
        var sum = outerPseudoSum
        sum.addLength(udp.count)
        sum.add(udp.prefix(layout.payload - start))
        sum.add(sum: payloadSum)
        udp[u16Native: 6] = sum.udpComplement
      }
    }
    if let start = layout.gre {
      let gre = octets.dropping(start)
      if greFields.contains(.sequenceNumber) {
        gre[u32: greFields.headerLength - 4] = greSequenceNumber &+ UInt32(truncatingIfNeeded: emitted)
      }
      if greFields.contains(.checksum) {
        gre[u32: 4] = 0
        var sum = InternetChecksum()
        sum.add(gre.prefix(layout.payload - start))
        sum.add(sum: payloadSum)
        gre[u16Native: 4] = sum.complement
      }
    }
  }

  /// Sets total length, identification and checksum of an IPv4 header whose octets run to the end of the packet.
  @inline(__always)
  private static func finish(_ header: Octets, _ identification: UInt16, _ base: InternetChecksum) {
    header[u16: 2] = UInt16(truncatingIfNeeded: header.count)
    header[u16: 4] = identification
    var sum = base
    sum.add(native: header[u16Native: 2])
    sum.add(native: header[u16Native: 4])
    header[u16Native: 10] = sum.complement
  }
}

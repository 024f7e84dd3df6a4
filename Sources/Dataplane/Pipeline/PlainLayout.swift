import CDataplane

/// Whether frames, flows and hops lie as the C code of the fast path believes.
enum PlainLayout {
  static var isAsExpected: Bool {
    frames && slots4 && slots6 && hops && hopStates && MemoryLayout<FlowKey4>.stride == 16
      && MemoryLayout<FlowKey6>.stride == 40
  }

  private static func offsets<T>(_ paths: PartialKeyPath<T>...) -> [Int?] {
    paths.map { MemoryLayout<T>.offset(of: $0) } + [MemoryLayout<T>.stride]
  }

  private static var frames: Bool {
    typealias Other = kalsae_frame
    let (ours, others) = unsafe (
      offsets(
        \Frame.buffer, \.start, \.length, \.capacity, \.port, \.flags, \.segmentation, \.checksumStart,
        \.checksumOffset),
      offsets(
        \Other.buffer, \.start, \.length, \.capacity, \.port, \.flags, \.segmentation, \.checksum_start,
        \.checksum_offset)
    )
    return ours == others && FrameFlags.checksumPartial.rawValue == 1 && FrameFlags.truncated.rawValue == 8
  }

  private static var slots4: Bool {
    typealias Slot = FlowSlot<FlowKey4>
    typealias Other = kalsae_slot4
    return offsets(
      \Slot.key, \.epoch, \.hop, \.lastSeen, \.octets, \.tally, \.rewrite, \.rewrite.ports, \.rewrite.addresses,
      \.rewrite.transport)
      == offsets(
        \Other.key, \.flow.epoch, \.flow.hop, \.flow.last_seen, \.flow.octets, \.flow.tally, \.rewrite, \.rewrite.ports,
        \.rewrite.address_delta, \.rewrite.delta)
  }

  private static var slots6: Bool {
    typealias Slot = FlowSlot<FlowKey6>
    typealias Other = kalsae_slot6
    return offsets(
      \Slot.key, \.epoch, \.hop, \.lastSeen, \.octets, \.tally, \.rewrite, \.rewrite.ports, \.rewrite.addresses,
      \.rewrite.transport)
      == offsets(
        \Other.key, \.flow.epoch, \.flow.hop, \.flow.last_seen, \.flow.octets, \.flow.tally, \.rewrite, \.rewrite.ports,
        \.rewrite.address_delta, \.rewrite.delta)
  }

  private static var hops: Bool {
    typealias Other = kalsae_hop
    return offsets(
      \HopRecord.port, \.length, \.plain, \.trafficClassMask, \.plainMTU, \.plainSum, \.plainStart, \.template)
      == offsets(
        \Other.port, \.length, \.plain, \.traffic_class_mask, \.plain_mtu, \.plain_sum, \.plain_start, \.headers)
  }

  private static var hopStates: Bool {
    typealias Other = kalsae_hop_state
    return offsets(\HopState.identification, \.learnedMTU) == offsets(\Other.identification, \.learned_mtu)
  }
}

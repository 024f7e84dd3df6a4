import Addresses

/// Packets that come in parts (TUN-8).
extension Core {
  /// Gives a fragment the ports of its datagram's first one. False when it waits or was dropped.
  mutating func followFragment(
    _ index: Int, _ identity: UInt64, offset: Int, length: Int, more: Bool, _ tail: inout FlowKeyTail,
    _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    if offset == 0 {
      guard readTransport(index, &tail, batch) else { return false }
    } else {
      contexts[index].flags.insert(.laterFragment)
    }
    switch fragments.track(identity, offset: offset, length: length, more: more, &tail, second: second) {
    case .follow:
      contexts[index].transportProtocol = tail.transport
      return true
    case .first:
      if !waiting.isEmpty { waiting.release(.firstFragment(identity)) }
      return true
    case .wait:
      if !waiting.hold(batch[index], contexts[index], for: .firstFragment(identity), at: now) {
        drop(index, .fragmentNoFirst, batch)
      }
      return false
    case .drop(let reason):
      drop(index, reason, batch)
      return false
    }
  }

  /// STUB
  mutating func reassemble(
    _ index: Int, isIPv6: Bool, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) -> Bool {
    drop(index, .reassemblyFull, batch)
    return false
  }

  /// STUB
  mutating func fragment(
    _ index: Int, _ hop: HopIndex, mtu: UInt32, _ batch: inout FrameBatch, _ tables: borrowing Tables
  ) {
    drop(index, .tooBig, batch)
    sendError(.tooBig(mtu), about: index, &batch, tables)
  }

  mutating func expireFragments() {}
}

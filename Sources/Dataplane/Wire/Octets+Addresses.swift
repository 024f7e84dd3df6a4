import Addresses

extension Octets {
  /// The Ethernet address at `offset`.
  @inlinable
  public subscript(mac offset: Int) -> MACAddress {
    @inline(__always) get { MACAddress(rawValue: self[u48: offset]) }
    @inline(__always) nonmutating set { self[u48: offset] = newValue.rawValue }
  }

  /// The IPv4 address at `offset`.
  @inlinable
  public subscript(ipv4 offset: Int) -> IPv4Address {
    @inline(__always) get { IPv4Address(rawValue: self[u32: offset]) }
    @inline(__always) nonmutating set { self[u32: offset] = newValue.rawValue }
  }

  /// The IPv6 address at `offset`.
  @inlinable
  public subscript(ipv6 offset: Int) -> IPv6Address {
    @inline(__always) get { IPv6Address(high: self[u64: offset], low: self[u64: offset + 8]) }
    @inline(__always) nonmutating set {
      self[u64: offset] = newValue.high
      self[u64: offset + 8] = newValue.low
    }
  }
}

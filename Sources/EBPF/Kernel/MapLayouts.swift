import Addresses
import CEBPF
import Dataplane

extension kalsae_address {
  static var zero: kalsae_address { kalsae_address(word: (0, 0, 0, 0)) }

  init(_ address: IPAddress) {
    switch address {
    case .v4(let a): self.init(word: (0, 0, UInt32(0xffff).bigEndian, a.rawValue.bigEndian))
    case .v6(let a):
      self.init(
        word: (
          UInt32(truncatingIfNeeded: a.high >> 32).bigEndian, UInt32(truncatingIfNeeded: a.high).bigEndian,
          UInt32(truncatingIfNeeded: a.low >> 32).bigEndian, UInt32(truncatingIfNeeded: a.low).bigEndian
        ))
    }
  }

  /// The unspecified address of a family.
  init(any family: IPFamily) {
    self.init(family == .ipv4 ? .v4(IPv4Address(rawValue: 0)) : .v6(IPv6Address(high: 0, low: 0)))
  }

  var address: IPAddress {
    let high = UInt64(UInt32(bigEndian: word.0)) << 32 | UInt64(UInt32(bigEndian: word.1))
    let low = UInt64(UInt32(bigEndian: word.2)) << 32 | UInt64(UInt32(bigEndian: word.3))
    if high == 0, low >> 32 == 0xffff { return .v4(IPv4Address(rawValue: UInt32(truncatingIfNeeded: low))) }
    return .v6(IPv6Address(high: high, low: low))
  }
}

extension kalsae_frontend_key {
  init(_ place: FrontendPlace) {
    self.init(
      address: place.address.map { kalsae_address($0) } ?? kalsae_address(any: place.family),
      port: place.port.bigEndian, transport: place.transport, zero: 0)
  }

  /// The entry that says that some service has a cluster IP (KP-37).
  init(known address: IPAddress) { self.init(address: kalsae_address(address), port: 0, transport: 0, zero: 0) }
}

extension kalsae_backend {
  init(_ endpoint: ServicePort.Endpoint) {
    self.init(address: kalsae_address(endpoint.address), port: endpoint.port.bigEndian, zero: 0, zero2: 0)
  }

  var endpoint: ServicePort.Endpoint { ServicePort.Endpoint(address.address, UInt16(bigEndian: port)) }
}

extension kalsae_member_key {
  init(_ service: UInt64, _ endpoint: ServicePort.Endpoint) {
    self.init(
      service: service, address: kalsae_address(endpoint.address), port: endpoint.port.bigEndian, zero: 0, zero2: 0)
  }
}

extension kalsae_range_key {
  /// The place of the frontend is compared as well, so its 32 bits come on top of the prefix's.
  init(_ frontend: UInt32, _ prefix: IPPrefix) {
    self.init(
      length: 32 + UInt32(prefix.length) + (prefix.family == .ipv4 ? 96 : 0), frontend: frontend,
      address: kalsae_address(prefix.address))
  }
}

/// The number of a service port in every agent: what affinity is remembered by outlives the tables.
func serviceIdentity(_ name: String) -> UInt64 {
  var hash: UInt64 = 0xcbf2_9ce4_8422_2325
  for octet in name.utf8 { hash = (hash ^ UInt64(octet)) &* 0x100_0000_01b3 }
  // FNV-1a leaves the low bits of short names alike.
  hash ^= hash >> 32
  hash = hash &* 0xd6e8_feb8_6659_fd93
  return hash ^ hash >> 32
}

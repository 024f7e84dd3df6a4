public import Addresses

/// An address with a port of a transport protocol.
public struct SocketAddress: Hashable, Sendable {
  public var address: IPAddress
  public var port: UInt16

  public init(_ address: IPAddress, port: UInt16) {
    self.address = address
    self.port = port
  }
}

extension SocketAddress: LosslessStringConvertible {
  /// Reads `10.0.0.1:80` or `[fd00::1]:80`.
  public init?(_ text: String) {
    guard let colon = text.lastIndex(of: ":") else { return nil }
    var host = text[..<colon]
    let digits = text[text.index(after: colon)...]
    let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
    if isBracketed { host = host.dropFirst().dropLast() }
    guard
      let address = IPAddress(parsing: host), isBracketed == (address.family == .ipv6),
      digits.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let port = UInt16(digits)
    else { return nil }
    self.init(address, port: port)
  }

  /// `10.0.0.1:80`, `[fd00::1]:80` (RFC 3986, section 3.2.2)
  public var description: String { address.family == .ipv4 ? "\(address):\(port)" : "[\(address)]:\(port)" }
}

extension SocketAddress: Comparable {
  public static func < (a: SocketAddress, b: SocketAddress) -> Bool { (a.address, a.port) < (b.address, b.port) }
}

/// Where a server of the node listens.
public enum BindAddress: Sendable, Hashable {
  /// It is not started.
  case disabled
  case at(SocketAddress)
}

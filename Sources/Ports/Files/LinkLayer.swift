import CPcap
import Dataplane

/// How frames of a capture become Ethernet frames, by the capture's link type (LINKTYPE_ values of libpcap).
enum LinkLayer {
  case ethernet
  /// Bare IP packets: the version nibble tells which.
  case ip
  /// Linux cooked captures, version 1: 16 octets.
  case cooked
  /// Linux cooked captures, version 2: 20 octets.
  case cooked2

  init?(linkType: Int32) {
    switch linkType {
    case DLT_EN10MB: self = .ethernet
    case DLT_RAW, DLT_IPV4, DLT_IPV6, 101: self = .ip
    case DLT_LINUX_SLL: self = .cooked
    case DLT_LINUX_SLL2: self = .cooked2
    default: return nil
    }
  }

  /// The octets of the capture's own header, which `convert` replaces.
  private var headerLength: Int {
    switch self {
    case .ethernet, .ip: 0
    case .cooked: 16
    case .cooked2: 20
    }
  }

  /// Makes `frame` an Ethernet frame, in place. False where it is too short for its link type.
  ///
  /// Addresses that the capture does not have are zero.
  func convert(_ frame: inout Frame) -> Bool {
    let octets = frame.octets
    guard octets.count >= headerLength else { return false }
    var destination: UInt64 = 0
    var source: UInt64 = 0
    let type: UInt16
    switch self {
    case .ethernet:
      return octets.count >= 14
    case .ip:
      guard octets.count > 0 else { return false }
      switch octets[0] >> 4 {
      case 4: type = 0x0800
      case 6: type = 0x86dd
      default: return false
      }
    case .cooked:
      if octets[u16: 4] == 6 { source = octets[u48: 6] }
      if octets[u16: 0] == 1 { destination = 0xffff_ffff_ffff }
      type = octets[u16: 14]
    case .cooked2:
      if octets[11] == 6 { source = octets[u48: 12] }
      if octets[10] == 1 { destination = 0xffff_ffff_ffff }
      type = octets[u16: 0]
    }
    frame.pull(headerLength)
    frame.push(14)
    let header = frame.octets
    header[u48: 0] = destination
    header[u48: 6] = source
    header[u16: 12] = type
    return true
  }
}

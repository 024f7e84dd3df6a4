import CLinux
import CNetlink
import Glibc
import Synchronization

/// Keeps packets that belong to the data plane from the host's own stack: a `bpf` filter of traffic control at a
/// device's ingress drops them there (NODE-3). Packet sockets see them all the same, because they come first.
///
/// The filter has a preference and a handle of its own and lives beside those of others on an existing `clsact`. It stays
/// in the kernel when the process dies without `remove()`, so that the host does not begin to answer for pods; the next
/// guard of the device takes it over.
public final class IngressGuard: Sendable {
  /// The filter's place among those of a device: early, because a filter before it that accepts a packet ends the search.
  public static let preference: UInt16 = 11
  /// A filter's handle says whether the `clsact` came with a filter of ours: then it goes with the last of them. The
  /// programs of `EBPF` have the same handles at other preferences, where they are filters.
  private static let handleWithOwnQdisc: UInt32 = 0x6b61
  private static let handleOnFoundQdisc: UInt32 = 0x6b62

  private static let clsact: UInt32 = 0xffff_fff1
  private static let clsactHandle: UInt32 = 0xffff_0000
  private static let ingress: UInt32 = 0xffff_fff2
  private static let egress: UInt32 = 0xffff_fff3

  public let interface: Int32
  private let netlink: Netlink
  private let handle: UInt32
  private let isInstalled = Mutex(true)

  /// Installs the guard on a device. A guard that is there already, of this process or of one that died, is taken over.
  public init(interface: Int32, classifier: PacketClassifier, netlink: Netlink) throws(NodeError) {
    self.interface = interface
    self.netlink = netlink
    let program = try classifier.ingressFilter()
    var message = NetlinkMessage(RTM_NEWQDISC, flags: NLM_F_CREATE | NLM_F_EXCL)
    message.putTrafficHeader(interface, handle: IngressGuard.clsactHandle, parent: IngressGuard.clsact)
    message.attribute(Int(TCA_KIND), "clsact")
    var made = true
    do throws(NodeError) {
      try netlink.request(message, netlink.label(interface), "add the clsact queueing discipline")
    } catch {
      guard error.code == EEXIST else { throw error }
      made = false
    }
    do throws(NodeError) {
      let found = made ? [] : try IngressGuard.filters(of: interface, netlink)
      let isOurs = made || found.contains { $0.kind == "bpf" && $0.handle == IngressGuard.handleWithOwnQdisc }
      handle =
        found.first(where: \.isOwn)?.handle
        ?? (isOurs ? IngressGuard.handleWithOwnQdisc : IngressGuard.handleOnFoundQdisc)
      try IngressGuard.install(program, handle, interface, netlink)
    } catch {
      if made { try? IngressGuard.deleteQdisc(interface, netlink) }
      throw error
    }
  }

  deinit { try? remove() }

  /// Puts another classifier in the place of the present one; no packet is seen by neither.
  public func update(_ classifier: PacketClassifier) throws(NodeError) {
    try IngressGuard.install(try classifier.ingressFilter(), handle, interface, netlink)
  }

  /// Gives the device back to the host: removes the filter, and the `clsact` if it came with the guard and nobody else
  /// has a filter on it. Does nothing the second time, nor where the device is gone.
  public func remove() throws(NodeError) {
    guard
      isInstalled.withLock({ value in
        defer { value = false }
        return value
      })
    else { return }
    var message = NetlinkMessage(RTM_DELTFILTER)
    message.putTrafficHeader(
      interface, handle: handle, parent: IngressGuard.ingress, info: IngressGuard.info(IngressGuard.preference))
    message.attribute(Int(TCA_KIND), "bpf")
    do throws(NodeError) {
      try netlink.request(message, netlink.label(interface), "remove the ingress filter")
      guard handle == IngressGuard.handleWithOwnQdisc else { return }
      guard try IngressGuard.filters(of: interface, netlink).isEmpty else { return }
      try IngressGuard.deleteQdisc(interface, netlink)
    } catch {
      switch error.code {
      case ENODEV, ENOENT, EINVAL: return
      default: throw error
      }
    }
  }

  /// Leaves the filter to go with the device, which somebody is about to remove.
  public func abandon() { isInstalled.withLock { $0 = false } }

  /// Preference and ETH_P_ALL, as `tcm_info` wants them.
  private static func info(_ preference: UInt16) -> UInt32 { UInt32(preference) << 16 | UInt32(UInt16(3).bigEndian) }

  private static func install(
    _ program: [sock_filter], _ handle: UInt32, _ interface: Int32, _ netlink: Netlink
  ) throws(NodeError) {
    var message = NetlinkMessage(RTM_NEWTFILTER, flags: NLM_F_CREATE)
    message.putTrafficHeader(interface, handle: handle, parent: ingress, info: info(preference))
    message.attribute(Int(TCA_KIND), "bpf")
    message.nested(Int(TCA_OPTIONS)) { message in
      message.attribute(TCA_BPF_OPS_LEN, UInt16(program.count))
      var octets = NetlinkMessage(0)
      for instruction in program {
        octets.put(instruction.code)
        octets.put([instruction.jt, instruction.jf])
        octets.put(instruction.k)
      }
      message.attribute(TCA_BPF_OPS, octets.payload)
      message.attribute(TCA_BPF_FLAGS, UInt32(1))
    }
    do throws(NodeError) {
      try netlink.request(message, netlink.label(interface), "install the ingress filter")
    } catch {
      guard error.code == ENOENT else { throw error }
      throw NodeError(
        subject: error.subject, operation: error.operation, code: error.code, detail: error.detail,
        remedy: "the kernel needs CONFIG_NET_CLS_BPF")
    }
  }

  private struct Filter {
    var handle: UInt32
    var preference: UInt16
    var kind: String

    var isOwn: Bool {
      kind == "bpf" && preference == IngressGuard.preference
        && (handle == IngressGuard.handleWithOwnQdisc || handle == IngressGuard.handleOnFoundQdisc)
    }
  }

  private static func filters(of interface: Int32, _ netlink: Netlink) throws(NodeError) -> [Filter] {
    try filters(of: interface, at: ingress, netlink) + filters(of: interface, at: egress, netlink)
  }

  private static func filters(
    of interface: Int32, at parent: UInt32, _ netlink: Netlink
  ) throws(NodeError) -> [Filter] {
    var message = NetlinkMessage(RTM_GETTFILTER, flags: NLM_F_DUMP)
    message.putTrafficHeader(interface, handle: 0, parent: parent)
    // The kernel lists each chain's head too, with handle 0.
    return try netlink.request(message, netlink.label(interface), "list the filters").map {
      Filter(
        handle: $0.body.u32(8), preference: UInt16($0.body.u32(16) >> 16),
        kind: $0.body.attributes(from: 20)[Int(TCA_KIND)]?.text ?? "")
    }.filter { $0.handle != 0 }
  }

  private static func deleteQdisc(_ interface: Int32, _ netlink: Netlink) throws(NodeError) {
    var message = NetlinkMessage(RTM_DELQDISC)
    message.putTrafficHeader(interface, handle: clsactHandle, parent: clsact)
    try netlink.request(message, netlink.label(interface), "remove the clsact queueing discipline")
  }
}

extension NetlinkMessage {
  /// `struct tcmsg`
  fileprivate mutating func putTrafficHeader(_ interface: Int32, handle: UInt32, parent: UInt32, info: UInt32 = 0) {
    put(UInt32(0))
    put(interface)
    put(handle)
    put(parent)
    put(info)
  }
}

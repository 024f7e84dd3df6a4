public import Addresses
import CNetlink
import Glibc

/// A rule of the kernel's that leads packets of the host's own programs to a routing table (ip-rule(8)).
public struct KernelRule: Sendable, Hashable {
  public var family: IPFamily
  /// The place among the rules; 0 is where the rule for the host's own addresses is.
  public var priority: UInt32
  public var table: UInt32
  /// The device that packets come by: `lo` for those of the host's own programs; nil: any.
  public var incoming: String?
  public var source: IPPrefix?
  public var destination: IPPrefix?
  /// 6 for TCP, 17 for UDP, 132 for SCTP; nil: any.
  public var transport: UInt8?
  public var destinationPorts: ClosedRange<UInt16>?
  /// Who made the rule, as of routes; 2 is the kernel.
  public var origin: UInt8

  public init(
    _ family: IPFamily, priority: UInt32, table: UInt32, incoming: String? = nil, source: IPPrefix? = nil,
    destination: IPPrefix? = nil,
    transport: UInt8? = nil, destinationPorts: ClosedRange<UInt16>? = nil, origin: UInt8
  ) {
    self.family = family
    self.priority = priority
    self.table = table
    self.incoming = incoming
    self.source = source
    self.destination = destination
    self.transport = transport
    self.destinationPorts = destinationPorts
    self.origin = origin
  }

  /// The kernel's own rule that all packets to the host's addresses follow.
  static func local(_ family: IPFamily) -> KernelRule {
    KernelRule(family, priority: 0, table: KernelRoute.localTable, origin: 2)
  }

  // linux/rtnetlink.h and linux/fib_rules.h
  fileprivate static let (newRule, deleteRule, getRule) = (32, 33, 34)
  fileprivate static let toTable: UInt8 = 1
  private static let (destinationAttribute, sourceAttribute, incomingAttribute, priorityAttribute) = (1, 2, 3, 6)
  private static let (tableAttribute, originAttribute, transportAttribute, portsAttribute) = (15, 21, 22, 24)

  fileprivate func put(in message: inout NetlinkMessage) {
    message.put([
      family.number, UInt8(destination?.length ?? 0), UInt8(source?.length ?? 0), 0, table < 256 ? UInt8(table) : 0, 0,
      0, KernelRule.toTable,
    ])
    message.put(UInt32(0))
    message.attribute(KernelRule.priorityAttribute, priority)
    message.attribute(KernelRule.tableAttribute, table)
    message.attribute(KernelRule.originAttribute, [origin])
    if let destination { message.attribute(KernelRule.destinationAttribute, destination.address.octets) }
    if let source { message.attribute(KernelRule.sourceAttribute, source.address.octets) }
    if let incoming { message.attribute(KernelRule.incomingAttribute, incoming) }
    if let transport { message.attribute(KernelRule.transportAttribute, [transport]) }
    if let ports = destinationPorts {
      var range = NetlinkMessage(0)
      range.put(ports.lowerBound)
      range.put(ports.upperBound)
      message.attribute(KernelRule.portsAttribute, range.payload)
    }
  }

  /// Decodes what follows the netlink header of RTM_NEWRULE; nil for rules of another kind.
  init?(_ body: NetlinkReader) {
    guard body.count >= 12, body.u8(7) == KernelRule.toTable else { return nil }
    switch body.u8(0) {
    case UInt8(AF_INET): family = .ipv4
    case UInt8(AF_INET6): family = .ipv6
    default: return nil
    }
    let attributes = body.attributes(from: 12)
    priority = attributes[KernelRule.priorityAttribute]?.u32() ?? 0
    table = attributes[KernelRule.tableAttribute]?.u32() ?? UInt32(body.u8(4))
    incoming = attributes[KernelRule.incomingAttribute]?.text
    destination = attributes[KernelRule.destinationAttribute].flatMap { IPAddress(octets: $0.octets) }
      .flatMap { IPPrefix($0, length: Int(body.u8(1))) }
    source = attributes[KernelRule.sourceAttribute].flatMap { IPAddress(octets: $0.octets) }
      .flatMap { IPPrefix($0, length: Int(body.u8(2))) }
    transport = attributes[KernelRule.transportAttribute]?.u8()
    destinationPorts = attributes[KernelRule.portsAttribute].flatMap {
      $0.u16(0) <= $0.u16(2) ? $0.u16(0)...$0.u16(2) : nil
    }
    origin = attributes[KernelRule.originAttribute]?.u8() ?? 0
  }
}

extension Netlink {
  /// The rules of a family that lead to a table, in order.
  public func rules(_ family: IPFamily) throws(NodeError) -> [KernelRule] {
    var message = NetlinkMessage(KernelRule.getRule, flags: NLM_F_DUMP)
    message.put([family.number, 0, 0, 0, 0, 0, 0, 0])
    message.put(UInt32(0))
    return try request(message, "rules", "list the rules").compactMap { KernelRule($0.body) }
  }

  /// Puts rules of priority 0 before the one for the host's own addresses. The kernel puts a new rule behind those of
  /// the same priority: so that one is made anew behind them and then its old self removed. At no time is there none.
  public func addRulesBeforeLocal(_ rules: [KernelRule], _ family: IPFamily) throws(NodeError) {
    guard !rules.isEmpty else { return }
    for rule in rules { try change(rule, KernelRule.newRule, NLM_F_CREATE | NLM_F_EXCL, "add") }
    let local = KernelRule.local(family)
    // Somebody may have given it another place already.
    guard try self.rules(family).contains(local) else { return }
    try change(local, KernelRule.newRule, NLM_F_CREATE, "add")
    try change(local, KernelRule.deleteRule, 0, "remove")
  }

  /// Adds a rule; one that is there already is no error.
  public func addRule(_ rule: KernelRule) throws(NodeError) {
    do throws(NodeError) { try change(rule, KernelRule.newRule, NLM_F_CREATE | NLM_F_EXCL, "add") } catch {
      guard error.code == EEXIST else { throw error }
    }
  }

  public func deleteRule(_ rule: KernelRule) throws(NodeError) { try change(rule, KernelRule.deleteRule, 0, "remove") }

  private func change(_ rule: KernelRule, _ type: Int, _ flags: Int32, _ verb: String) throws(NodeError) {
    var message = NetlinkMessage(type, flags: flags)
    rule.put(in: &message)
    try request(
      message, "rule for \(rule.destinationPorts.map { "ports \($0)" } ?? "table \(rule.table)")", "\(verb) the rule")
  }
}

/// How full a table is: what tells of pressure before something must give way or cannot be entered.
public struct TableUse: Sendable, Equatable {
  public enum Table: String, Sendable, CaseIterable {
    case flowsIPv4, flowsIPv6
    /// Clients that stay with their endpoint (KP-50).
    case affinity
    /// Datagrams that pass in fragments, and those that are put together here.
    case fragments, reassembly
    /// Packets that wait for a neighbour or a first fragment.
    case waiting
    /// Next hops, with the neighbours that they lead to.
    case hops
    case frontends, services, backends
    /// Lists of endpoints and Maglev tables, in words.
    case serviceLists
    /// Pods' addresses, blocks, and sets of ports that policies name; the lists that join them, in words.
    case policyPods, policyBlocks, policyPorts, policyLists
  }

  public var table: Table
  public var entries: Int
  /// Entries that there is room for. Tables that `grows` says it of get more room when they need it; in the others
  /// something older gives way, or a packet is dropped and counted.
  public var capacity: Int
  /// The memory that the table has, in octets.
  public var octets: Int
  public var grows: Bool

  init(_ table: Table, _ entries: Int, of capacity: Int, octets: Int, grows: Bool = false) {
    self.table = table
    self.entries = entries
    self.capacity = capacity
    self.octets = octets
    self.grows = grows
  }
}

extension Tables {
  /// How full the tables are that all workers read.
  public var use: [TableUse] {
    [TableUse(.hops, hops.count, of: hops.records.count / 2, octets: hops.records.octets, grows: true)]
      + services.use + policies.use
  }
}

extension Pipeline {
  /// How full the worker's own tables are. Looks at some thousand entries at most.
  public var tableUse: [TableUse] {
    [
      v4.flows.use(.flowsIPv4), v6.flows.use(.flowsIPv6), core.affinity.use(second: core.second),
      core.fragments.use(second: core.second),
      TableUse(
        .reassembly, core.reassembler.count, of: core.reassembler.capacity, octets: core.reassembler.octets),
      TableUse(.waiting, core.waiting.count, of: core.waiting.capacity, octets: core.waiting.octets),
    ]
  }

  /// Entries that gave way to others before their time, by table.
  public var evictions: [(table: TableUse.Table, entries: UInt64)] {
    [
      (.flowsIPv4, v4.flows.statistics.evicted), (.flowsIPv6, v6.flows.statistics.evicted),
      (.affinity, core.affinity.evicted), (.fragments, core.fragments.evicted), (.reassembly, core.reassembler.evicted),
    ]
  }
}

extension FlowState {
  fileprivate func use(_ name: TableUse.Table) -> TableUse {
    TableUse(name, connections.count, of: connections.limit, octets: table.octets + connections.octets)
  }
}

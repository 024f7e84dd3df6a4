import Addresses

/// One direction of an IPv4 flow, by the words of its key: addresses and ports as they lie in the packet.
public struct OffloadKey: Hashable, Sendable, BitwiseCopyable {
  /// Source and destination address.
  public var addresses: UInt64
  /// From the lowest bit on: ports (32 bits), transport (8), flags (8), zone (16).
  public var tail: UInt64

  public init(addresses: UInt64, tail: UInt64) {
    self.addresses = addresses
    self.tail = tail
  }

  init(_ key: FlowKey4) { self.init(addresses: key.addresses, tail: key.tail.word) }
}

/// What becomes of the packets of one direction of a flow: all that somebody else needs to carry them as the pipeline does.
/// Only what the fast path may send is offered: see `PlainHop`.
public struct OffloadedFlow: Sendable, Equatable {
  /// The tunnel that the packets come in.
  public struct Arrival: Sendable, Equatable {
    public var encapsulation: Encapsulation
    /// Who sends them, and to which address of the node.
    public var source: IPv4Address
    public var destination: IPv4Address
    /// The VNI; 0 where the tunnel has none.
    public var identifier: UInt32
    /// Whether packets whose outer traffic class is another than their own are not to be carried (TUN-6).
    public var wantsSameClass: Bool
    /// Whether those are not whose outer time to live is smaller than their own (TUN-6).
    public var wantsLongerLife: Bool
  }

  /// What addresses and ports become, as they lie in the packet.
  public struct Translation: Sendable, Equatable {
    public var source: UInt32
    public var destination: UInt32
    public var ports: UInt32
    /// What that does to a checksum over the addresses, as it lies in memory (RFC 1624).
    public var addressDelta: UInt16
  }

  public var key: OffloadKey
  /// nil: none.
  public var arrival: Arrival?
  public var translation: Translation?
  /// The port that packets leave by.
  public var port: PortIndex
  /// The largest packet that may, without outer headers.
  public var mtu: UInt32
  public var encapsulation: Encapsulation
  /// The bits of the traffic class that the outer header takes over (TUN-5, TUN-6).
  public var classMask: UInt8
  /// The sum of the outer IPv4 header as it is in `header`, and of the overhead, in host byte order.
  public var sum: UInt16
  /// What is put before the packet, from the Ethernet header on; lengths, identification and the outer IPv4 checksum are 0.
  public var header: [UInt8]
}

/// How many packets somebody else carried.
public struct OffloadCounts: Sendable, Equatable {
  public var packets: UInt64
  public var octets: UInt64
  /// When the last one was, in seconds of the pipeline's clock; 0: never.
  public var lastSeen: UInt32

  public init(packets: UInt64, octets: UInt64, lastSeen: UInt32) {
    self.packets = packets
    self.octets = octets
    self.lastSeen = lastSeen
  }
}

/// Somebody who carries packets of flows that were decided: the kernel. Called between a worker's packets and inside
/// `DataPath.change` only, never by two threads at once.
public protocol FlowOffload: AnyObject {
  /// Whether it would take a flow whose packets leave by a port: it does not have it yet, and both devices are its.
  func wants(_ key: OffloadKey, to port: PortIndex) -> Bool
  /// Takes a flow over, until the next `invalidate` or until it is removed. False where it does not.
  func enter(_ flow: OffloadedFlow) -> Bool
  /// Lets go of a flow; does nothing where it has none.
  func remove(_ key: OffloadKey)
  /// What was carried since the last call; nil where it has no such flow.
  func takeCounts(of key: OffloadKey) -> OffloadCounts?
  /// Lets all packets come here from now on: what flows were decided by may have changed. Each flow may be entered again.
  func invalidate()
  /// What was carried so far, and how many directions of flows may be now.
  var totals: (flows: Int, packets: UInt64, octets: UInt64) { get }
}

/// A flow that may be worth offering.
struct OffloadCandidate<Key: FlowKey> {
  var key: Key
  /// The encapsulation that its packets come in.
  var tunnel: Encapsulation.RawValue
}

extension Core {
  /// The most flows that are offered in a batch.
  static var offloadLimit: Int { 64 }
  /// Of a flow's packets each so many-th looks whether it can be offered: one less, all bits set.
  static var offloadStride: UInt32 { 3 }
}

extension Family {
  /// Notes a flow that goes on: TCP that is established, and datagrams of which some have come.
  @inline(never)
  mutating func propose(_ index: Int, _ position: Int, _ core: inout Core) {
    // Limits of bandwidth are kept here alone.
    guard !Key.isIPv6, !core.isLimited, candidates.count < Core.offloadLimit else { return }
    let context = core.contexts[index]
    guard context.flags.isDisjoint(with: [.fragment, .laterFragment, .icmpError, .originated, .hasOptions]) else {
      return
    }
    let slot = flows.table.slots[position]
    switch context.transportProtocol {
    case IPProtocol.tcp.rawValue:
      guard context.tcpFlags & 0x07 == 0,
        flows.connections.places[Int(slot.connection)].state == ConnectionState.established.rawValue
      else { return }
    case IPProtocol.udp.rawValue: guard slot.packets >= 4 else { return }
    default: return
    }
    candidates.append(OffloadCandidate(key: keys[index], tunnel: context.tunnel))
  }
}

extension Pipeline {
  /// Has somebody carry packets of flows that were decided; nil: nobody, and what was carried is counted no more.
  public mutating func setOffload(_ offload: (any FlowOffload)?) {
    core.offload?.invalidate()
    v4.flows.forgetOffload()
    v4.candidates.removeAll()
    core.offload = offload
    core.offloadMask = offload == nil ? .max : Core.offloadStride
  }

  /// What somebody else carried so far, and how many directions of flows may be now.
  public var offloadTotals: (flows: Int, packets: UInt64, octets: UInt64) { core.offload?.totals ?? (0, 0, 0) }

  /// Offers the flows that were noted, and lets go of those that ended.
  mutating func settleOffload(_ tables: borrowing Tables) {
    guard let offload = core.offload else { return }
    if !v4.flows.ended.isEmpty {
      for key in v4.flows.ended { offload.remove(OffloadKey(key)) }
      v4.flows.ended.removeAll(keepingCapacity: true)
    }
    if v4.candidates.isEmpty { return }
    for candidate in v4.candidates {
      let position = v4.flows.table.find(candidate.key, candidate.key.hash)
      guard position >= 0 else { continue }
      let hop = Int(v4.flows.table.slots[position].hop)
      guard offload.wants(OffloadKey(candidate.key), to: tables.hops.records[hop].port),
        let flow = describe(position, candidate.tunnel, tables)
      else { continue }
      // Before it is entered anew, because that begins to count anew.
      v4.flows.takeCounts(position, offload)
      if offload.enter(flow) { v4.flows.markOffloaded(position) }
    }
    v4.candidates.removeAll(keepingCapacity: true)
  }

  /// Brings the counts of some flows that are carried elsewhere up to date, so that those that live are not taken for idle.
  mutating func syncOffload(limit: Int) {
    guard let offload = core.offload else { return }
    v4.flows.syncOffload(offload, limit: limit)
  }

  /// The same for all flows: before they are looked at.
  public mutating func syncOffload() { syncOffload(limit: .max) }

  /// What a flow was decided to; nil where only the pipeline can carry it.
  private mutating func describe(
    _ position: Int, _ tunnel: Encapsulation.RawValue, _ tables: borrowing Tables
  ) -> OffloadedFlow? {
    let slot = v4.flows.table.slots[position]
    let hop = Int(slot.hop)
    guard hop != 0, slot.epoch == tables.epoch, core.hopStates[hop].learnedMTU == 0 else { return nil }
    let record = tables.hops.records[hop]
    guard record.plain != PlainHop.no.rawValue, record.length <= 64,
      !tables.ports.hasLimits || !tables.ports.limits[Int(record.port.rawValue)].send.isLimit,
      let encapsulation = Encapsulation(rawValue: record.encapsulation)
    else { return nil }
    var arrival: OffloadedFlow.Arrival?
    if tunnel != Encapsulation.none.rawValue {
      guard encapsulation == .none, let found = describeArrival(slot, tunnel, tables) else { return nil }
      arrival = found
    }
    var octets = [UInt8](repeating: 0, count: HopRecord.templateSize)
    withOctets(&octets) { all in
      all.store(record.template, 0)
      if encapsulation == .vxlan || encapsulation == .geneve {
        all[u16: HopRecord.templateSize - 30] = 0xc000 | UInt16(truncatingIfNeeded: slot.key.hash >> 40) & 0x3fff
      }
    }
    var flow = OffloadedFlow(
      key: OffloadKey(slot.key), arrival: arrival, port: record.port, mtu: record.mtu, encapsulation: encapsulation,
      classMask: record.trafficClassMask, sum: record.plainSum,
      header: Array(octets.suffix(Int(record.length))))
    if slot.rewrites {
      flow.translation = OffloadedFlow.Translation(
        source: slot.rewrite.source, destination: slot.rewrite.destination, ports: slot.rewrite.ports,
        addressDelta: slot.rewrite.addresses.value)
    }
    return flow
  }

  /// The tunnel that a flow's packets come in: the one that its answers go out by. Else each packet is looked at here.
  private func describeArrival(
    _ slot: FlowSlot<FlowKey4>, _ kind: Encapsulation.RawValue, _ tables: borrowing Tables
  ) -> OffloadedFlow.Arrival? {
    let connection = v4.flows.connections.places[Int(slot.connection)]
    let other = slot.isReply ? connection.forward : connection.reply
    let position = v4.flows.table.find(other, other.hash)
    guard position >= 0, let tunnel = tables.hop(v4.flows.table.slots[position].hop)?.tunnel,
      tunnel.encapsulation.rawValue == kind, case .v4(let local) = tunnel.local, case .v4(let remote) = tunnel.remote,
      tables.localAddresses.find(local) != nil, let peer = tables.peerAddresses.find(tunnel.remote),
      tables.peerEncapsulations[Int(peer)] & 1 << UInt32(kind) != 0
    else { return nil }
    var identifier: UInt32 = 0
    switch tunnel.encapsulation {
    case .vxlan: identifier = tables.settings.vxlanVNI
    case .geneve: identifier = tables.settings.geneveVNI
    case .gre: guard tables.settings.greKey == nil else { return nil }
    case .none, .ipip: break
    }
    return OffloadedFlow.Arrival(
      encapsulation: tunnel.encapsulation, source: remote, destination: local, identifier: identifier,
      wantsSameClass: tables.settings.uniformDSCP, wantsLongerLife: tables.settings.uniformTTL)
  }
}

extension FlowState where Key == FlowKey4 {
  /// Nobody else carries anything any more.
  mutating func forgetOffload() {
    for place in 0..<connections.extent { connections.places[place].isOffloaded = false }
    ended.removeAll()
  }

  mutating func markOffloaded(_ position: Int) {
    connections.places[Int(table.slots[position].connection)].isOffloaded = true
  }

  /// Adds what was carried elsewhere to the counts of the direction at `position`.
  mutating func takeCounts(_ position: Int, _ offload: any FlowOffload) {
    guard connections.places[Int(table.slots[position].connection)].isOffloaded,
      let counts = offload.takeCounts(of: OffloadKey(table.slots[position].key)), counts.packets > 0
    else { return }
    table.slots[position].add(packets: counts.packets, octets: counts.octets)
    table.slots[position].lastSeen = max(table.slots[position].lastSeen, counts.lastSeen)
  }

  /// The same for both directions of a connection.
  mutating func takeCounts(of connection: ConnectionIndex, _ offload: any FlowOffload) {
    let place = connections.places[Int(connection)]
    guard place.isOffloaded else { return }
    for key in [place.forward, place.reply] {
      let position = table.find(key, key.hash)
      if position >= 0 { takeCounts(position, offload) }
    }
  }

  /// Brings up to `limit` connections up to date; the next call goes on where this one ends.
  mutating func syncOffload(_ offload: any FlowOffload, limit: Int) {
    var looked = 0
    var found = 0
    while looked < connections.extent, found < limit, looked < max(limit, connections.extent / 64) {
      if syncPlace >= connections.extent { syncPlace = 0 }
      if connections.places[syncPlace].isOffloaded {
        takeCounts(of: ConnectionIndex(syncPlace), offload)
        found += 1
      }
      syncPlace += 1
      looked += 1
    }
  }
}

import Addresses

/// Flows as they outlive a process: what both directions' packets are and how far each connection has come. What they
/// were decided to is not kept: it is decided anew with the first packet, from tables that another process has made.
///
/// Integers are little-endian. Ports are written by name, because another process numbers them anew.
enum FlowSnapshot {
  /// Names the format; another version is not read.
  static let mark = Array("kalsae flows 1\n".utf8)
  /// Names the clock: it begins with the machine.
  static let ownerLength = 36
}

/// A key as whole words.
protocol SavedKey: FlowKey {
  static var words: Int { get }
  func word(_ number: Int) -> UInt64
  init(_ word: (Int) -> UInt64)
}

extension FlowKeyTail {
  init(word: UInt64) {
    self.init(
      ports: UInt32(truncatingIfNeeded: word), transport: UInt8(truncatingIfNeeded: word >> 32),
      flags: UInt8(truncatingIfNeeded: word >> 40), zone: UInt16(truncatingIfNeeded: word >> 48))
  }
}

extension FlowKey4: SavedKey {
  static var words: Int { 2 }
  func word(_ number: Int) -> UInt64 { number == 0 ? addresses : tail.word }
  init(_ word: (Int) -> UInt64) { self.init(addresses: word(0), tail: FlowKeyTail(word: word(1))) }
}

extension FlowKey6: SavedKey {
  static var words: Int { 5 }

  func word(_ number: Int) -> UInt64 {
    switch number {
    case 0: source0
    case 1: source1
    case 2: destination0
    case 3: destination1
    default: tail.word
    }
  }

  init(_ word: (Int) -> UInt64) {
    self.init(
      source0: word(0), source1: word(1), destination0: word(2), destination1: word(3), tail: FlowKeyTail(word: word(4))
    )
  }
}

extension FlowState where Key: SavedKey {
  fileprivate func save(to out: inout SnapshotWriter) {
    var entries: [UInt64] = []
    entries.reserveCapacity(connections.count * (Key.words * 2 + 2))
    for position in 0..<table.capacity {
      let slot = table.slots[position]
      if slot.key.isFree || slot.isReply { continue }
      let connection = connections.places[Int(slot.connection)]
      let other = table.find(connection.reply, connection.reply.hash)
      let seen = max(slot.lastSeen, other >= 0 ? table.slots[other].lastSeen : 0)
      for number in 0..<Key.words { entries.append(connection.forward.word(number)) }
      for number in 0..<Key.words { entries.append(connection.reply.word(number)) }
      entries.append(UInt64(seen) | UInt64(connection.created) << 32)
      entries.append(UInt64(connection.state) | UInt64(connection.finSeen) << 8)
    }
    out.put(UInt64(entries.count))
    for word in entries { out.put(word) }
  }

  /// Enters what was saved; returns how many could not be.
  fileprivate mutating func restore(
    from input: inout SnapshotReader, ports: [UInt16: UInt16], second: UInt32, _ tables: borrowing Tables
  ) -> Int? {
    guard let words = input.next(), words % UInt64(Key.words * 2 + 2) == 0, input.has(words) else { return nil }
    var lost = 0
    for _ in 0..<words / UInt64(Key.words * 2 + 2) {
      var forward = Key.free
      var reply = Key.free
      let start = input.position
      forward = Key { input.word(at: start + 8 * $0) }
      reply = Key { input.word(at: start + 8 * (Key.words + $0)) }
      let times = input.word(at: start + 16 * Key.words)
      let state = input.word(at: start + 16 * Key.words + 8)
      input.position += 16 * Key.words + 16
      guard let from = ports[forward.tail.zone], let to = ports[reply.tail.zone], !forward.isFree, !reply.isFree else {
        lost += 1
        continue
      }
      forward.tail.zone = from
      reply.tail.zone = to
      let isEntered = enter(
        forward, reply, lastSeen: UInt32(truncatingIfNeeded: times), created: UInt32(truncatingIfNeeded: times >> 32),
        state: UInt8(truncatingIfNeeded: state), finSeen: UInt8(truncatingIfNeeded: state >> 8), second: second, tables)
      if !isEntered { lost += 1 }
    }
    return lost
  }

  private mutating func enter(
    _ forward: Key, _ reply: Key, lastSeen: UInt32, created: UInt32, state: UInt8, finSeen: UInt8, second: UInt32,
    _ tables: borrowing Tables
  ) -> Bool {
    guard let known = ConnectionState(rawValue: state) else { return false }
    let due = lastSeen &+ tables.settings.timeouts.idle(forward.tail.transport, known)
    guard lastSeen <= second, due > second, table.find(forward, forward.hash) < 0, table.find(reply, reply.hash) < 0
    else { return false }
    var flow = NewFlow(forward, forward.hash, reply: reply, reply.hash, second: created)
    flow.connection.state = state
    flow.connection.finSeen = finSeen
    // KP-51: the endpoint that it was given, so that UDP stays there for as long as it is offered.
    if let frontend = tables.frontend(
      forward.destinationAddress, isIPv6: Key.isIPv6, transport: forward.tail.transport,
      port: forward.tail.destinationPort)
    {
      let service = tables.services.frontendRecords[Int(frontend)].service
      let endpoint = ServicePort.Endpoint(reply.sourceAddress, reply.tail.sourcePort)
      if let backend = tables.services.backend(of: endpoint, in: service) {
        flow.connection.setBackend(backend, tables.services)
      }
    }
    guard insert(flow, second: second, epoch: tables.epoch, tables.settings.timeouts) else { return false }
    let position = table.find(forward, flow.hash)
    table.slots[position].lastSeen = lastSeen
    let other = table.find(reply, flow.replyHash)
    if other >= 0 { table.slots[other].lastSeen = lastSeen }
    connections.schedule(table.slots[position].connection, at: due)
    return true
  }
}

extension Pipeline {
  /// The flows, to be restored by another process on the same machine. `owner`: 36 octets that tell this start of the
  /// machine from others, because the clock begins with it.
  public func saveFlows(_ tables: borrowing Tables, owner: String) -> [UInt8] {
    var out = SnapshotWriter()
    out.octets = FlowSnapshot.mark + Array(owner.utf8.prefix(FlowSnapshot.ownerLength))
    out.octets += [UInt8](
      repeating: 0, count: FlowSnapshot.mark.count + FlowSnapshot.ownerLength - out.octets.count)
    let ports = tables.ports.descriptions.enumerated().compactMap { index, port in port.map { (index, $0.name) } }
    out.put(UInt64(ports.count))
    for (index, name) in ports {
      out.put(UInt64(index))
      out.put(UInt64(name.utf8.count))
      out.octets += name.utf8
    }
    v4.flows.save(to: &out)
    v6.flows.save(to: &out)
    return out.octets
  }

  /// Enters flows that another process saved. Flows of ports that are not there, and those that have ended meanwhile,
  /// are left out. Returns how many were entered and how many not; nil where the text is of another machine's start or
  /// of another version, or not whole: then there are no flows.
  public mutating func restoreFlows(
    _ octets: [UInt8], _ tables: borrowing Tables, owner: String, at now: UInt64
  ) -> (restored: Int, lost: Int)? {
    core.begin(at: now, tables)
    var input = SnapshotReader(octets: octets)
    guard octets.starts(with: FlowSnapshot.mark) else { return nil }
    let name = octets.dropFirst(FlowSnapshot.mark.count).prefix(FlowSnapshot.ownerLength)
    guard name.elementsEqual(owner.utf8.prefix(FlowSnapshot.ownerLength)) else { return nil }
    input.position = FlowSnapshot.mark.count + FlowSnapshot.ownerLength
    guard let count = input.next(), count <= 65_536 else { return nil }
    var numbers: [String: UInt16] = [:]
    for (index, port) in tables.ports.descriptions.enumerated() {
      if let port { numbers[port.name] = UInt16(index) }
    }
    var ports: [UInt16: UInt16] = [Zone.underlay.rawValue: Zone.underlay.rawValue]
    for _ in 0..<count {
      guard let index = input.next(), let length = input.next(), let name = input.text(length) else { return nil }
      if let number = numbers[name] { ports[UInt16(truncatingIfNeeded: index)] = number }
    }
    let before = flowCount
    guard let lost4 = v4.flows.restore(from: &input, ports: ports, second: core.second, tables),
      let lost6 = v6.flows.restore(from: &input, ports: ports, second: core.second, tables)
    else {
      forgetFlows()
      return nil
    }
    return (flowCount - before, lost4 + lost6)
  }
}

private struct SnapshotWriter {
  var octets: [UInt8] = []

  mutating func put(_ word: UInt64) {
    for shift in stride(from: 0, to: 64, by: 8) { octets.append(UInt8(truncatingIfNeeded: word >> UInt64(shift))) }
  }
}

private struct SnapshotReader {
  let octets: [UInt8]
  var position = 0

  func has(_ words: UInt64) -> Bool { words <= UInt64(octets.count - position) / 8 }

  func word(at place: Int) -> UInt64 {
    (0..<8).reduce(0) { $0 | UInt64(octets[place + $1]) << UInt64(8 * $1) }
  }

  mutating func next() -> UInt64? {
    guard has(1) else { return nil }
    defer { position += 8 }
    return word(at: position)
  }

  mutating func text(_ length: UInt64) -> String? {
    guard length <= UInt64(octets.count - position) else { return nil }
    defer { position += Int(length) }
    return String(decoding: octets[position..<position + Int(length)], as: UTF8.self)
  }
}

import Addresses
import CEBPF
import Dataplane
import Testing

@testable import EBPF

/// What the kernel would hold after the writes, in plain dictionaries.
private struct Image {
  var backends: [UInt32: String] = [:]
  var lists: [UInt32: UInt64] = [:]
  var members: [String: UInt32] = [:]
  var ranges: Set<String> = []
  var services: [UInt32: UInt32] = [:]
  var records: [UInt32: kalsae_frontend] = [:]
  var frontends: [String: UInt32] = [:]
  var addresses: Set<String> = []

  static func name(_ key: kalsae_frontend_key) -> String {
    "\(key.address.address) \(key.transport) \(UInt16(bigEndian: key.port))"
  }
  static func name(_ key: kalsae_member_key) -> String {
    "\(key.service) \(key.address.address) \(UInt16(bigEndian: key.port))"
  }

  /// Applies the writes in the order in which they reach the kernel; after each step `look` sees what a program would.
  mutating func take(_ writes: MapWrites, _ look: (borrowing Image) -> Void = { _ in }) {
    for (key, value) in zip(writes.backends.keys, writes.backends.values) {
      backends[key] = value.endpoint.description
      look(self)
    }
    for (key, value) in zip(writes.lists.keys, writes.lists.values) {
      lists[key] = value
      look(self)
    }
    for (key, value) in zip(writes.members.keys, writes.members.values) { members[Image.name(key)] = value }
    for key in writes.ranges.keys { ranges.insert("\(key.frontend) \(key.address.address)/\(key.length)") }
    for (key, value) in zip(writes.services.keys, writes.services.values) {
      services[key] = value.list
      look(self)
    }
    for (key, value) in zip(writes.frontendRecords.keys, writes.frontendRecords.values) {
      records[key] = value
      look(self)
    }
    for (key, value) in zip(writes.frontends.keys, writes.frontends.values) {
      frontends[Image.name(key)] = value
      look(self)
    }
    for key in writes.addresses.keys { addresses.insert("\(key.address)") }
    for key in writes.removedFrontends {
      frontends[Image.name(key)] = nil
      look(self)
    }
    for key in writes.removedAddresses { addresses.remove("\(key.address)") }
    for key in writes.removedMembers { members[Image.name(key)] = nil }
    for key in writes.removedRanges { ranges.remove("\(key.frontend) \(key.address.address)/\(key.length)") }
  }

  /// The endpoints that a program finds for a frontend, of the cluster and of the node; nil: no such frontend.
  func endpoints(_ place: FrontendPlace) -> (cluster: [String], local: [String], identity: UInt64)? {
    guard let number = frontends[Image.name(kalsae_frontend_key(place))], number != 0 else { return nil }
    let list = services[records[number]!.service] ?? 0
    guard list != 0 else { return nil }
    let counts = lists[list] ?? 0
    let cluster = UInt32(truncatingIfNeeded: counts)
    let local = UInt32(truncatingIfNeeded: counts >> 32)
    func read(_ range: Range<UInt32>) -> [String] {
      range.map { backends[UInt32(lists[list + 4 + $0] ?? 0)] ?? "nothing" }
    }
    return (read(0..<cluster), read(cluster..<cluster + local), lists[list + 3] ?? 0)
  }

  /// All that programs can find, whatever the places are.
  var meaning: [String] {
    var lines: [String] = addresses.map { "address \($0)" } + members.map { "member \($0.key) \($0.value)" }
    for (name, number) in frontends {
      guard number != 0 else {
        lines.append("known \(name)")
        continue
      }
      let record = records[number]!
      let list = services[record.service]!
      let counts = lists[list]!
      let sizes = lists[list + 1]!
      let length = (counts & 0xffff_ffff) + counts >> 32 + sizes & 0xffff_ffff + sizes >> 32
      let endpoints = (0..<UInt32(length)).map { backends[UInt32(lists[list + 4 + $0]!)]! }
      let own = ranges.filter { $0.hasPrefix("\(number) ") }.map { $0.split(separator: " ")[1] }.sorted()
      lines.append(
        "\(name): \(record.kind) \(record.flags) \(lists[list + 2]!) \(lists[list + 3]!) \(endpoints) \(own)")
    }
    return lines.sorted()
  }
}

private struct Generator: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}

@Suite("Service tables in maps")
struct MirrorTests {
  private static func endpoints(_ numbers: some Sequence<Int>) -> [ServicePort.Endpoint] {
    numbers.sorted().map { ServicePort.Endpoint(.v4(IPv4Address(10, 1, 0, UInt8($0))), 8080) }
  }

  /// A step of a random history of services with what must hold of it.
  private struct Node: ~Copyable {
    var tables = Tables()
    var services: [Int: (index: ServiceIndex, frontends: [Frontend])] = [:]

    mutating func step(_ random: inout Generator) {
      let number = Int.random(in: 1...6, using: &random)
      let cluster = MirrorTests.endpoints((1...9).filter { _ in Bool.random(using: &random) })
      let local = cluster.filter { _ in Bool.random(using: &random) }
      let port = ServicePort(
        name: "ns/s\(number):web", cluster: cluster, local: local, affinity: number == 2 ? 10 : 0,
        balancing: number == 3 ? .maglev : .random)
      let transport: UInt8 = number.isMultiple(of: 2) ? 17 : 6
      func frontend(_ kind: Frontend.Kind, _ address: IPAddress?, _ port: UInt16) -> Frontend {
        Frontend(kind, address: address, family: .ipv4, transport: transport, port: port)
      }
      if let old = services[number] {
        switch Int.random(in: 0...2, using: &random) {
        case 0:
          for frontend in old.frontends { tables.removeFrontend(frontend) }
          tables.removeService(old.index)
          services[number] = nil
        case 1: tables.updateService(old.index, port)
        default:
          let ranges = Bool.random(using: &random) ? [IPPrefix("10.0.0.0/8")!] : nil
          tables.setFrontend(
            old.frontends[1], FrontendPolicy(isLocal: Bool.random(using: &random), sourceRanges: ranges),
            service: old.index)
        }
      } else {
        let index = tables.addService(port)
        let frontends = [
          frontend(.clusterIP, .v4(IPv4Address(10, 96, 0, UInt8(number / 2))), UInt16(80 + number)),
          frontend(.loadBalancer, .v4(IPv4Address(192, 0, 2, UInt8(number))), 80),
          frontend(.nodePort, nil, UInt16(30000 + number)),
        ]
        for frontend in frontends { tables.setFrontend(frontend, FrontendPolicy(isLocal: false), service: index) }
        services[number] = (index, frontends)
      }
      if Int.random(in: 0...9, using: &random) == 0 {
        tables.addNodePortAddress(.v4(IPv4Address(192, 168, 0, UInt8.random(in: 1...4, using: &random))))
      }
    }

    func place(_ number: Int) -> FrontendPlace? { services[number].map { FrontendPlace($0.frontends[0]) } }
  }

  @Test("Whatever changed in whatever order, the maps hold what a fresh load would", arguments: 1...8)
  func equalsFreshLoad(seed: UInt64) throws {
    var random = Generator(state: seed)
    var node = Node()
    node.tables.followServices()
    var mirror = ServiceMirror(capacity: .init())
    var image = Image()
    for _ in 0..<120 {
      for _ in 0..<Int.random(in: 1...5, using: &random) { node.step(&random) }
      mirror.release()
      image.take(try mirror.apply(node.tables.takeServiceChanges()))
      node.tables.followServices()
      let all = node.tables.takeServiceChanges()
      var fresh = ServiceMirror(capacity: .init(for: all))
      var freshImage = Image()
      freshImage.take(try fresh.apply(all))
      #expect(image.meaning == freshImage.meaning)
    }
  }

  @Test("At every single write a program finds the endpoints of before or of after, never others", arguments: 1...4)
  func neverInconsistent(seed: UInt64) throws {
    var random = Generator(state: seed)
    var node = Node()
    node.tables.followServices()
    var mirror = ServiceMirror(capacity: .init())
    var image = Image()
    for _ in 0..<60 {
      var before: [FrontendPlace: Set<[String]>] = [:]
      let allPlaces = (1...6).compactMap { number in
        node.place(number)
      }
      for place in allPlaces {
        if let found = image.endpoints(place) { before[place] = [found.cluster] }
      }
      for _ in 0..<3 { node.step(&random) }
      // Places given back by the change before are used again now: what is looked at must not notice.
      mirror.release()
      let writes = try mirror.apply(node.tables.takeServiceChanges())
      var after = image
      after.take(writes)
      let places = Set(allPlaces).union((1...6).compactMap { node.place($0) })
      var faults: [String] = []
      image.take(writes) { image in
        for place in places {
          guard let now = image.endpoints(place) else { continue }
          let allowed = (before[place] ?? []).union(after.endpoints(place).map { [$0.cluster] } ?? [])
          if !allowed.contains(now.cluster) { faults.append("\(place): \(now.cluster), not one of \(allowed)") }
        }
      }
      #expect(faults.isEmpty, "\(faults.first ?? "")")
    }
  }

  @Test("A place that programs may still look at is not given away before they have ended")
  func placesWait() throws {
    var tables = Tables()
    tables.followServices()
    var mirror = ServiceMirror(capacity: .init())
    let index = tables.addService(ServicePort(name: "ns/a:1", cluster: MirrorTests.endpoints([1]), local: []))
    let first = try mirror.apply(tables.takeServiceChanges())
    tables.updateService(index, ServicePort(name: "ns/a:1", cluster: MirrorTests.endpoints([2]), local: []))
    let second = try mirror.apply(tables.takeServiceChanges())
    #expect(mirror.isWaiting)
    #expect(Set(first.backends.keys).isDisjoint(with: second.backends.keys))
    #expect(Set(first.lists.keys).isDisjoint(with: second.lists.keys))
    mirror.release()
    tables.updateService(index, ServicePort(name: "ns/a:1", cluster: MirrorTests.endpoints([3]), local: []))
    let third = try mirror.apply(tables.takeServiceChanges())
    #expect(third.backends.keys == first.backends.keys, "what was given back is used again")
  }

  @Test("A change writes in proportion to what changed, not to what is there")
  func proportion() throws {
    var tables = Tables()
    var indices: [ServiceIndex] = []
    for number in 0..<2000 {
      let index = tables.addService(
        ServicePort(name: "ns/s\(number):web", cluster: MirrorTests.endpoints(1...3), local: []))
      indices.append(index)
      tables.setFrontend(
        Frontend(
          .clusterIP, address: .v4(IPv4Address(10, 96, UInt8(number >> 8), UInt8(number & 255))), family: .ipv4,
          transport: 6, port: 80), FrontendPolicy(isLocal: false), service: index)
    }
    tables.followServices()
    let all = tables.takeServiceChanges()
    #expect(all.services.count == 2000 && all.frontends.count == 2000)
    var mirror = ServiceMirror(capacity: .init(for: all))
    _ = try mirror.apply(all)
    tables.updateService(indices[7], ServicePort(name: "ns/s7:web", cluster: MirrorTests.endpoints(1...4), local: []))
    let writes = try mirror.apply(tables.takeServiceChanges())
    #expect(writes.backends.keys.count == 1)
    #expect(writes.services.keys.count == 1)
    #expect(writes.lists.keys.count == 8)
    #expect(writes.frontends.keys.isEmpty && writes.frontendRecords.keys.isEmpty)
  }

  @Test("Maps that are too small are noticed, and larger ones hold everything")
  func growth() throws {
    var tables = Tables()
    tables.followServices()
    var mirror = ServiceMirror(capacity: .init())
    for number in 0..<5000 {
      _ = tables.addService(ServicePort(name: "ns/s\(number):web", cluster: MirrorTests.endpoints(1...3), local: []))
    }
    #expect(throws: MapsAreFull.self) { try mirror.apply(tables.takeServiceChanges()) }
    tables.followServices()
    let all = tables.takeServiceChanges()
    var larger = ServiceMirror(capacity: .init(for: all))
    _ = try larger.apply(all)
    #expect(larger.serviceCount == 5000)
  }

  @Test("A verifier's log is shortened to the loader's message, the source line and the last instructions")
  func verifierLog() {
    var log = "libbpf: prog 'connect4': BPF program load failed: Permission denied\n"
    for number in 0..<5000 { log += "\(number): (07) r1 += 1 ; R1_w=scalar()\n" }
    log += "; *pointer = 1; @ sock_lb.bpf.c:12\n"
    for number in 5000..<5020 { log += "\(number): (bf) r1 = r2\n" }
    log += "R1 invalid mem access 'scalar'\nprocessed 5020 insns (limit 1000000)\n"
    let short = VerifierLog.shortened(log)
    #expect(short.split(separator: "\n").count < 22)
    #expect(short.contains("prog 'connect4'"))
    #expect(short.contains("sock_lb.bpf.c:12"))
    #expect(short.contains("R1 invalid mem access"))
    #expect(!short.contains("processed"))
  }
}

import Addresses
import IPAM
import Synchronization
import Testing

/// Warm pools against a provider that behaves as EC2 does.
@Suite("Warm pools")
struct WarmPoolTests {
  private final class Machine: Sendable {
    let store = MemoryStore()
    let provider: SimulatedProvider
    let clock = Mutex<Int64>(1_000_000)
    let manager: WarmPoolManager

    init(
      interfaces: Int = 3, addresses: Int = 6, subnet: String = "10.0.0.0/24",
      _ change: (inout WarmPoolTargets) -> Void = { _ in }
    ) {
      provider = SimulatedProvider(
        limits: InterfaceLimits(interfaces: interfaces, addressesPerInterface: addresses), subnet: IPPrefix(subnet)!)
      var targets = WarmPoolTargets()
      change(&targets)
      let clock = Weak()
      manager = WarmPoolManager(store: store, provider: provider, targets: targets, time: { clock.now })
      clock.machine.withLock { $0 = self }
    }

    /// The manager's clock is the machine's, which is not there yet when the manager is made.
    private final class Weak: Sendable {
      let machine = Mutex<Machine?>(nil)
      var now: Int64 { machine.withLock { $0 }!.clock.withLock { $0 } }
    }

    @discardableResult
    func add(_ container: Int) throws(IPAMError) -> IPAddress {
      try manager.assign(AssignRequest(attachment(container), node: "a")).addresses[0].address
    }

    func remove(_ container: Int) throws(IPAMError) { try manager.release(attachment(container)) }
    func advance(_ seconds: Int64) { clock.withLock { $0 += seconds } }
  }

  @Test("IPAM-3: WARM_IP_TARGET addresses are at hand before anybody asks, and again after somebody did")
  func warmIPTarget() throws {
    let machine = Machine { $0.warmIPTarget = 3 }
    try machine.manager.maintain()
    #expect(try machine.manager.status().free == 3)
    let calls = machine.provider.calls
    for container in 0..<3 { try machine.add(container) }
    #expect(machine.provider.calls == calls)
    try machine.manager.maintain()
    let status = try machine.manager.status()
    #expect(status.assigned == 3 && status.free == 3 && status.interfaces == 2)
  }

  @Test("IPAM-3: MINIMUM_IP_TARGET addresses are there however few are in use")
  func minimum() throws {
    let machine = Machine {
      $0.warmIPTarget = 1
      $0.minimumIPTarget = 7
    }
    try machine.manager.maintain()
    #expect(try machine.manager.status().total == 7)
    for container in 0..<7 { try machine.add(container) }
    try machine.manager.maintain()
    #expect(try machine.manager.status().total == 8)
  }

  @Test("IPAM-3: WARM_ENI_TARGET whole interfaces are at hand, and are given up when another stays warm")
  func warmENITarget() throws {
    let machine = Machine()
    try machine.manager.maintain()
    #expect(try machine.manager.status().free == 5)
    try machine.add(0)
    try machine.manager.maintain()
    #expect(try machine.manager.status().total == 10)
    for container in 1..<6 { try machine.add(container) }
    try machine.manager.maintain()
    #expect(try machine.manager.status().interfaces == 3)
    for container in 0..<6 { try machine.remove(container) }
    try machine.manager.maintain()
    // What cools down is not given up.
    #expect(try machine.manager.status().interfaces == 2)
    machine.advance(30)
    try machine.manager.maintain()
    let status = try machine.manager.status()
    #expect(status.interfaces == 1 && status.free == 5)
    #expect(try machine.provider.interfaces().count == 1)
  }

  @Test("IPAM-3: no more pods than the interfaces have addresses for, and each address once")
  func limits() throws {
    let machine = Machine()
    let limits = machine.provider.limits
    #expect(limits.maxPods == 3 * (6 - 1) + 2)
    var seen: Set<IPAddress> = []
    for container in 0..<limits.maxPods - 2 { seen.insert(try machine.add(container)) }
    #expect(seen.count == 15)
    let error = #expect(throws: IPAMError.self) { try machine.add(99) }
    #expect(error?.kind == .exhausted && error?.message.contains("15 in use") == true)
  }

  @Test("IPAM-3: an address cools down for 30 seconds")
  func coolDown() throws {
    let machine = Machine(interfaces: 1, addresses: 3)
    let first = try machine.add(0)
    let second = try machine.add(1)
    try machine.remove(0)
    try machine.remove(0)
    #expect(throws: IPAMError.self) { try machine.add(2) }
    machine.advance(29)
    #expect(throws: IPAMError.self) { try machine.add(2) }
    machine.advance(1)
    #expect(try machine.add(2) == first)
    #expect(first != second)
  }

  @Test("IPAM-3: the subnet's free addresses bound the pool")
  func subnetFull() throws {
    // 16 addresses, five of them the cloud's, one the machine's own.
    let machine = Machine(interfaces: 4, addresses: 8, subnet: "10.0.0.0/28")
    var given = 0
    while (try? machine.add(given)) != nil { given += 1 }
    let error = #expect(throws: IPAMError.self) { try machine.add(given) }
    #expect(error?.kind == .exhausted && error?.message.contains("no free address") == true)
    let interfaces = try machine.provider.interfaces()
    #expect(machine.provider.freeAddresses == 0)
    #expect(given == interfaces.reduce(0) { $0 + $1.addresses.count } && given >= 9)
  }

  @Test("IPAM-6: after a provider call whose answer was lost, its addresses are found and none is given twice")
  func lostAnswers() throws {
    let machine = Machine { $0.warmIPTarget = 2 }
    // The process ends after the provider acted and before the books say so.
    for crash in 0..<12 {
      machine.store.crash(after: crash % 3)
      try? machine.manager.maintain()
      _ = try? machine.add(crash)
      machine.store.crash(after: nil)
    }
    try machine.manager.maintain()
    machine.advance(60)
    try machine.manager.maintain()
    let truth = try machine.provider.interfaces().flatMap(\.addresses)
    let status = try machine.manager.status()
    #expect(status.total == truth.count && status.lost == [])
    #expect(status.assigned + status.free + status.cooling == status.total)
    var seen: Set<IPAddress> = []
    for container in 100..<100 + 15 - status.assigned { seen.insert(try machine.add(container)) }
    #expect(seen.count == 15 - status.assigned)
  }

  @Test("IPAM-3: a provider that fails is told, and tried again")
  func failing() throws {
    let machine = Machine { $0.warmIPTarget = 2 }
    machine.provider.change {
      $0.fault = { call, _ in call == "addAddresses" ? ProviderError(.throttled, "slow down") : nil }
    }
    let error = #expect(throws: IPAMError.self) { try machine.add(0) }
    #expect(error?.kind == .busy && error?.message.contains("slow down") == true)
    #expect(#expect(throws: IPAMError.self) { try machine.manager.maintain() }?.kind == .busy)
    #expect(#expect(throws: IPAMError.self) { try machine.manager.ready() }?.kind == .busy)
    machine.provider.change { $0.fault = nil }
    try machine.add(0)
    try machine.manager.maintain()
    try machine.manager.ready()
  }

  @Test("IPAM-6: an address that the cloud takes away from a pod is told, not given to another")
  func takenAway() throws {
    let machine = Machine { $0.warmIPTarget = 1 }
    let address = try machine.add(0)
    try machine.provider.removeAddresses([address], from: "eni-0")
    try machine.manager.maintain()
    #expect(try machine.manager.status().lost == [address])
    #expect(
      #expect(throws: IPAMError.self) { try machine.manager.check(attachment(0), has: [address]) }?.kind == .mismatch)
    try machine.remove(0)
    #expect(try machine.manager.status().lost == [])
  }

  @Test("CNI-6: collection and check")
  func collect() throws {
    let machine = Machine { $0.warmIPTarget = 1 }
    let address = try machine.add(0)
    try machine.add(1)
    try machine.manager.check(attachment(0), has: [address])
    #expect(try machine.manager.collect(keeping: [attachment(0)], network: "net") == [attachment(1)])
    #expect(try machine.manager.status().assigned == 1)
  }

  @Test("IPAM-6: over random lives with lost writes and failing calls, no address has two owners", arguments: 1...6)
  func random(seed: UInt64) throws {
    var random = SeededNumbers(state: seed)
    let machine = Machine(interfaces: 3, addresses: 4, subnet: "10.0.0.0/27") {
      $0.warmIPTarget = Int(seed % 3)
      $0.minimumIPTarget = seed % 2 == 0 ? 4 : nil
    }
    var owners: [IPAddress: Int] = [:]
    for step in 0..<200 {
      switch Int.random(in: 0..<10, using: &random) {
      case 0..<4:
        if let address = try? machine.add(step) {
          #expect(owners.updateValue(step, forKey: address) == nil, "\(address) at step \(step)")
        }
      case 4, 5:
        guard let (address, owner) = owners.sorted(by: { $0.key < $1.key }).randomElement(using: &random) else {
          continue
        }
        try machine.remove(owner)
        owners[address] = nil
      case 6: machine.advance(Int64.random(in: 1...40, using: &random))
      case 7:
        machine.store.crash(after: Int.random(in: 0...2, using: &random))
        try? machine.manager.maintain()
        machine.store.crash(after: nil)
      case 8:
        let bad = Int.random(in: 0...3, using: &random)
        machine.provider.change { $0.fault = { _, number in number % 4 == bad ? ProviderError(.failed, "no") : nil } }
        try? machine.manager.maintain()
        machine.provider.change { $0.fault = nil }
      default: try machine.manager.maintain()
      }
      let truth = Set(try machine.provider.interfaces().flatMap(\.addresses))
      #expect(owners.keys.allSatisfy(truth.contains), "what is in use is not given up, step \(step)")
    }
    try machine.manager.maintain()
    let status = try machine.manager.status()
    let truth = try machine.provider.interfaces()
    #expect(status.total == truth.reduce(0) { $0 + $1.addresses.count } && status.interfaces == truth.count)
    #expect(status.assigned == owners.count && status.lost == [])
  }
}

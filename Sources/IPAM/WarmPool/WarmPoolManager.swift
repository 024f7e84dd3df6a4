import Addresses
import CLinux
import Synchronization

/// Addresses from a pool that is kept warm: some addresses are got from a provider before anybody asks for them, because
/// asking the provider takes seconds (IPAM-3, the AWS VPC CNI's L-IPAM).
///
/// The store says who has which address; the provider says which addresses there are. What the provider has and the
/// store does not know (because the process ended in between) is found by the next `maintain`, and cools down before it
/// is given.
public final class WarmPoolManager: AddressManager {
  private let store: any ObjectStore
  private let provider: any AddressProvider
  private let targets: WarmPoolTargets
  private let time: @Sendable () -> Int64
  /// One filling at a time. Holds why the last one could not do all it should.
  private let filling = Mutex<ProviderError?>(nil)

  public init(
    store: any ObjectStore, provider: any AddressProvider, targets: WarmPoolTargets = WarmPoolTargets(),
    time: @escaping @Sendable () -> Int64 = { Int64(kalsae_realtime() / 1_000_000_000) }
  ) {
    self.store = store
    self.provider = provider
    self.targets = targets
    self.time = time
  }

  private var clock: CoolDown { CoolDown(now: time(), seconds: targets.coolDownSeconds) }

  // MARK: AddressManager

  public func assign(_ request: AssignRequest) throws(IPAMError) -> Assignment {
    guard request.requested.isEmpty ? request.families == [.ipv4] : request.requested.count == 1 else {
      throw IPAMError(.refused, "a warm pool gives one IPv4 address to an interface; ask for that")
    }
    if let assignment = try take(request) { return assignment }
    // Slow, but better than a pod that does not start.
    let trouble = fill(atLeast: 1)
    if let assignment = try take(request) { return assignment }
    let status = try status()
    let limit = provider.limits.interfaces * provider.limits.podAddressesPerInterface
    let counts = "\(status.assigned) in use, \(status.cooling) cooling down, of at most \(limit)"
    if status.total >= limit || trouble?.kind == .subnetFull {
      throw IPAMError(
        .exhausted,
        "the machine has no free address (\(counts)"
          + (trouble.map { "; \($0)" } ?? "") + "); run the pod on another node, or give the subnet more addresses")
    }
    throw IPAMError(
      .busy,
      "the warm pool is empty (\(counts)" + (trouble.map { "; \($0)" } ?? "") + "); it is being filled, try again")
  }

  private func take(_ request: AssignRequest) throws(IPAMError) -> Assignment? {
    let clock = self.clock
    let address: IPAddress? = try store.updateObjects { objects in
      var interfaces = try objects.interfaces()
      for interface in interfaces {
        if let held = interface.value.addresses.first(where: { $0.attachment == request.attachment }) {
          return held.address
        }
      }
      // The fullest interfaces first, so that others become empty and can be given up.
      interfaces.sort {
        $0.value.assigned != $1.value.assigned ? $0.value.assigned > $1.value.assigned : $0.value.id < $1.value.id
      }
      for var interface in interfaces {
        let free = interface.value.addresses.indices.filter { index in
          let address = interface.value.addresses[index]
          return address.isFree(clock) && (request.requested.isEmpty || request.requested == [address.address])
        }
        guard let index = free.min(by: { interface.value.addresses[$0].since < interface.value.addresses[$1].since })
        else { continue }
        interface.value.addresses[index].attachment = request.attachment
        interface.value.addresses[index].pod = request.pod
        interface.value.addresses[index].since = clock.now
        try objects.put(interface)
        return interface.value.addresses[index].address
      }
      return nil
    }
    return address.map { Assignment(addresses: [AssignedAddress(address: $0, prefixLength: $0.family.width)]) }
  }

  public func release(_ attachment: Attachment) throws(IPAMError) {
    let now = time()
    try store.updateObjects { objects in
      for var interface in try objects.interfaces() {
        guard interface.value.release({ $0 == attachment }, now: now) else { continue }
        try objects.put(interface)
      }
    }
  }

  public func collect(keeping valid: Set<Attachment>, network: String) throws(IPAMError) -> [Attachment] {
    let stale = try store.readObjects { try $0.interfaces() }.flatMap { interface in
      interface.value.addresses.compactMap(\.attachment).filter { $0.network == network && !valid.contains($0) }
    }
    for attachment in stale { try release(attachment) }
    return stale.sorted()
  }

  public func check(_ attachment: Attachment, has addresses: [IPAddress]) throws(IPAMError) {
    let held = try store.readObjects { try $0.interfaces() }.flatMap(\.value.addresses)
      .filter { $0.attachment == attachment }
    guard held.map(\.address) == addresses else {
      throw IPAMError(
        .mismatch,
        "\(attachment) has \(held.isEmpty ? "no address" : held.map(\.address.description).joined(separator: ", "))"
          + ", not \(addresses.map(\.description).joined(separator: ", ")); delete the container and make it again")
    }
    if let lost = held.first(where: { $0.isLost == true }) {
      throw IPAMError(
        .mismatch, "\(lost.address) was taken away from the machine; delete the container and make it again")
    }
  }

  public func ready() throws(IPAMError) {
    let status = try status()
    guard status.free == 0 else { return }
    throw IPAMError(
      status.total < provider.limits.interfaces * provider.limits.podAddressesPerInterface ? .busy : .exhausted,
      "the warm pool has no free address: \(status.assigned) in use, \(status.cooling) cooling down")
  }

  public func maintain() throws(IPAMError) {
    if let trouble = fill(atLeast: 0), trouble.kind != .subnetFull, trouble.kind != .limit {
      throw IPAMError(.busy, "the warm pool cannot be kept at its targets: \(trouble); it will be tried again")
    }
  }

  public func status() throws(IPAMError) -> WarmPoolStatus {
    let clock = self.clock
    var status = WarmPoolStatus()
    for interface in try store.readObjects({ try $0.interfaces() }) {
      status.interfaces += 1
      for address in interface.value.addresses {
        status.total += 1
        if address.attachment != nil {
          status.assigned += 1
        } else if address.isFree(clock) {
          status.free += 1
        } else {
          status.cooling += 1
        }
        if address.isLost == true { status.lost.append(address.address) }
      }
    }
    return status
  }

  // MARK: Filling

  /// Brings the pool to its targets, with `atLeast` addresses that can be given now. What kept it from that, if anything.
  private func fill(atLeast: Int) -> ProviderError? {
    filling.withLock { last in
      do throws(ProviderError) {
        try adopt(provider.interfaces())
        // Each round is one call of the provider; a machine has few interfaces.
        for _ in 0..<64 {
          let status = try books { () throws(IPAMError) in try self.status() }
          var missing = targets.shortfall(total: status.total, assigned: status.assigned, limits: provider.limits)
          if atLeast > status.free { missing = max(missing, atLeast - status.free) }
          if missing > 0 {
            try grow(by: missing)
          } else if missing < 0 {
            guard try shrink(by: -missing) else { break }
          } else {
            break
          }
        }
        last = nil
      } catch {
        last = error
      }
      return last
    }
  }

  private func books<R>(_ body: () throws(IPAMError) -> R) throws(ProviderError) -> R {
    do throws(IPAMError) { return try body() } catch { throw ProviderError(.failed, error.message) }
  }

  /// Takes over what the provider says of which interfaces and addresses there are.
  private func adopt(_ truth: [ProviderInterface]) throws(ProviderError) {
    let now = time()
    try books { () throws(IPAMError) in
      try store.updateObjects { objects in
        let known = try objects.interfaces()
        for interface in truth {
          let id = interface.id
          var own =
            known.first { $0.value.id == id }
            ?? Objects.Versioned(
              value: WarmInterface(id: id, isPrimary: interface.isPrimary, addresses: []), revision: nil)
          let before = own.value
          own.value.adopt(interface.addresses, now: now)
          if own.revision == nil || own.value != before { try objects.put(own) }
        }
        for var gone in known where !truth.contains(where: { $0.id == gone.value.id }) {
          gone.value.adopt([], now: now)
          if gone.value.addresses.isEmpty { try objects.delete(gone) } else { try objects.put(gone) }
        }
      }
    }
  }

  private func grow(by missing: Int) throws(ProviderError) {
    let interfaces = try books { () throws(IPAMError) in try store.readObjects { try $0.interfaces() } }.map(\.value)
    let perInterface = provider.limits.podAddressesPerInterface
    let missing = targets.countsInterfaces ? perInterface : missing
    if let roomy = interfaces.first(where: { $0.addresses.count < perInterface }) {
      let got = try provider.addAddresses(min(missing, perInterface - roomy.addresses.count), to: roomy.id)
      guard !got.isEmpty else { throw ProviderError(.subnetFull, "the provider gave no address") }
      return try note(got, on: roomy.id, isPrimary: roomy.isPrimary)
    }
    guard interfaces.count < provider.limits.interfaces else {
      throw ProviderError(.limit, "all \(interfaces.count) interfaces are full")
    }
    let got = try provider.attachInterface(addresses: min(missing, perInterface))
    try note(got.addresses, on: got.id, isPrimary: got.isPrimary)
    if got.addresses.isEmpty { throw ProviderError(.subnetFull, "the provider gave no address") }
  }

  private func note(_ addresses: [IPAddress], on id: String, isPrimary: Bool) throws(ProviderError) {
    try books { () throws(IPAMError) in
      try store.updateObjects { objects in
        var interface =
          try objects.interface(id)
          ?? Objects.Versioned(value: WarmInterface(id: id, isPrimary: isPrimary, addresses: []), revision: nil)
        for address in addresses where !interface.value.addresses.contains(where: { $0.address == address }) {
          interface.value.addresses.append(WarmAddress(address: address, since: 0))
        }
        try objects.put(interface)
      }
    }
  }

  /// Gives up to `surplus` free addresses back; whole interfaces where they become empty. False where none can be.
  /// An address is out of the books before it is given back, so that nobody gets it in between.
  private func shrink(by surplus: Int) throws(ProviderError) -> Bool {
    let clock = self.clock
    let wholeOnly = targets.countsInterfaces
    let chosen: (id: String, addresses: [IPAddress], whole: Bool)? = try books { () throws(IPAMError) in
      try store.updateObjects { objects in
        let interfaces = try objects.interfaces().sorted { $0.value.assigned < $1.value.assigned }
        for var interface in interfaces {
          let all = interface.value.addresses
          let free = all.filter { $0.isFree(clock) }.map(\.address)
          if free.count == all.count, !interface.value.isPrimary, free.count <= surplus {
            try objects.delete(interface)
            return (interface.value.id, free, true)
          }
          guard !wholeOnly, !free.isEmpty else { continue }
          let some = Array(free.suffix(surplus))
          interface.value.addresses.removeAll { some.contains($0.address) }
          try objects.put(interface)
          return (interface.value.id, some, false)
        }
        return nil
      }
    }
    guard let chosen else { return false }
    if chosen.whole {
      try provider.detachInterface(chosen.id)
    } else {
      try provider.removeAddresses(chosen.addresses, from: chosen.id)
    }
    return true
  }
}

extension WarmInterface {
  var assigned: Int { addresses.count { $0.attachment != nil } }

  mutating func release(_ isGone: (Attachment) -> Bool, now: Int64) -> Bool {
    var changed = false
    for index in addresses.indices {
      guard let attachment = addresses[index].attachment, isGone(attachment) else { continue }
      addresses[index].attachment = nil
      addresses[index].pod = nil
      addresses[index].since = now
      changed = true
    }
    if changed { addresses.removeAll { $0.attachment == nil && $0.isLost == true } }
    return changed
  }

  /// Takes over which addresses the interface has. What is new has a past that nobody knows: it cools down.
  mutating func adopt(_ truth: [IPAddress], now: Int64) {
    addresses.removeAll { $0.attachment == nil && !truth.contains($0.address) }
    for index in addresses.indices {
      addresses[index].isLost = truth.contains(addresses[index].address) ? nil : true
    }
    for address in truth where !addresses.contains(where: { $0.address == address }) {
      addresses.append(WarmAddress(address: address, since: now))
    }
  }
}

import CEBPF

/// Entries of one map, to be written together.
struct Entries<Key: BitwiseCopyable, Value: BitwiseCopyable> {
  var keys: [Key] = []
  var values: [Value] = []

  mutating func set(_ key: Key, _ value: Value) {
    keys.append(key)
    values.append(value)
  }
}

/// What a change of the tables writes. First all that nothing leads to yet; then, word by word, what leads there; then
/// what led to the old is taken out. So a program that runs meanwhile sees the old or the new, never a mixture.
struct MapWrites {
  var backends = Entries<UInt32, kalsae_backend>()
  var lists = Entries<UInt32, UInt64>()
  var members = Entries<kalsae_member_key, UInt32>()
  var ranges = Entries<kalsae_range_key, UInt32>()

  var services = Entries<UInt32, kalsae_service>()
  var frontendRecords = Entries<UInt32, kalsae_frontend>()
  var frontends = Entries<kalsae_frontend_key, UInt32>()
  var addresses = Entries<kalsae_address, UInt32>()

  var removedFrontends: [kalsae_frontend_key] = []
  var removedAddresses: [kalsae_address] = []
  var removedMembers: [kalsae_member_key] = []
  var removedRanges: [kalsae_range_key] = []
}

/// The maps of the service tables.
struct ServiceMaps {
  static let names = [
    "frontends", "frontend_rec", "services", "lists", "backends", "members", "ranges", "addresses", "affinity",
    "counters",
  ]

  let frontends: BPFMap<kalsae_frontend_key, UInt32>
  let frontendRecords: BPFMap<UInt32, kalsae_frontend>
  let services: BPFMap<UInt32, kalsae_service>
  let lists: BPFMap<UInt32, UInt64>
  let backends: BPFMap<UInt32, kalsae_backend>
  let members: BPFMap<kalsae_member_key, UInt32>
  let ranges: BPFMap<kalsae_range_key, UInt32>
  let addresses: BPFMap<kalsae_address, UInt32>

  init(_ map: (String) throws(EBPFError) -> Descriptor) throws(EBPFError) {
    frontends = try BPFMap("frontends", map("frontends"))
    frontendRecords = try BPFMap("frontend_rec", map("frontend_rec"))
    services = try BPFMap("services", map("services"))
    lists = try BPFMap("lists", map("lists"))
    backends = try BPFMap("backends", map("backends"))
    members = try BPFMap("members", map("members"))
    ranges = try BPFMap("ranges", map("ranges"))
    addresses = try BPFMap("addresses", map("addresses"))
  }

  func write(_ writes: MapWrites) throws(EBPFError) {
    try backends.write(writes.backends.keys, writes.backends.values)
    try lists.write(writes.lists.keys, writes.lists.values)
    try members.write(writes.members.keys, writes.members.values)
    try ranges.write(writes.ranges.keys, writes.ranges.values)
    try services.write(writes.services.keys, writes.services.values)
    try frontendRecords.write(writes.frontendRecords.keys, writes.frontendRecords.values)
    try frontends.write(writes.frontends.keys, writes.frontends.values)
    try addresses.write(writes.addresses.keys, writes.addresses.values)
    try frontends.remove(writes.removedFrontends)
    try addresses.remove(writes.removedAddresses)
    try members.remove(writes.removedMembers)
    try ranges.remove(writes.removedRanges)
  }
}

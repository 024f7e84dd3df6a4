import CEBPF

/// What a change of the policy table writes. First all that nothing leads to yet; then, word by word, what leads there.
/// `PolicyMirror` says what is taken out when no program looks at it any more.
struct PolicyWrites {
  var ranges = Entries<UInt32, UInt64>()
  var rules = Entries<kalsae_policy_rule_key, UInt64>()
  var pods = Entries<UInt32, kalsae_policy_pod>()

  var blocks = Entries<kalsae_policy_block_key, UInt32>()
  var addresses = Entries<kalsae_address, UInt64>()

  var removedBlocks: [kalsae_policy_block_key] = []
  var removedAddresses: [kalsae_address] = []
}

/// The maps of the policy table.
struct PolicyMaps {
  static let names = [
    "policy_addresses", "policy_pods", "policy_blocks", "policy_rules", "policy_ranges", "policy_state",
    "policy_conns", "policy_frags", "policy_counts", "policy_samples",
  ]

  let addresses: BPFMap<kalsae_address, UInt64>
  let pods: BPFMap<UInt32, kalsae_policy_pod>
  let blocks: BPFMap<kalsae_policy_block_key, UInt32>
  let rules: BPFMap<kalsae_policy_rule_key, UInt64>
  let ranges: BPFMap<UInt32, UInt64>
  let state: BPFMap<UInt32, UInt64>
  let counts: Descriptor

  init(_ map: (String) throws(EBPFError) -> Descriptor) throws(EBPFError) {
    addresses = try BPFMap("policy_addresses", map("policy_addresses"))
    pods = try BPFMap("policy_pods", map("policy_pods"))
    blocks = try BPFMap("policy_blocks", map("policy_blocks"))
    rules = try BPFMap("policy_rules", map("policy_rules"))
    ranges = try BPFMap("policy_ranges", map("policy_ranges"))
    state = try BPFMap("policy_state", map("policy_state"))
    counts = try map("policy_counts")
  }

  func write(_ writes: PolicyWrites) throws(EBPFError) {
    try ranges.write(writes.ranges.keys, writes.ranges.values)
    try rules.write(writes.rules.keys, writes.rules.values)
    try pods.write(writes.pods.keys, writes.pods.values)
    try blocks.write(writes.blocks.keys, writes.blocks.values)
    try addresses.write(writes.addresses.keys, writes.addresses.values)
    try addresses.remove(writes.removedAddresses)
    try blocks.remove(writes.removedBlocks)
  }
}

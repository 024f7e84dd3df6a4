#pragma once
// What policies say of a connection: `PolicyTable` and `Core+Policy`.
#include "policy_packet.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_address);
  __type(value, __u64);
} policy_addresses SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, struct kalsae_policy_pod);
} policy_pods SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_policy_block_key);
  __type(value, __u32);
} policy_blocks SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_policy_rule_key);
  __type(value, __u64);
} policy_rules SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, __u64);
} policy_ranges SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, KALSAE_POLICY_STATES);
  __type(key, __u32);
  __type(value, __u64);
} policy_state SEC(".maps");

static __always_inline __u64 state(__u32 what) {
  __u64 *word = bpf_map_lookup_elem(&policy_state, &what);
  return word ? *(volatile __u64 *)word : 0;
}

/// The place in a list of ranges that does not end before `wanted`, and whether that one holds it.
VERIFIED_ALONE int policy_search(__u32 place, __u32 count, __u32 wanted) {
  __u32 low = 0, high = count;
  for (int i = 0; i < 20; i++) {
    if (low >= high) break;
    __u32 middle = (low + high) / 2, key = place + middle;
    __u64 *range = bpf_map_lookup_elem(&policy_ranges, &key);
    if (!range) return 0;
    if ((__u32)(*range >> 32) < wanted)
      low = middle + 1;
    else
      high = middle;
  }
  if (low >= count) return 0;
  __u32 key = place + low;
  __u64 *range = bpf_map_lookup_elem(&policy_ranges, &key);
  return range && (__u32)*range <= wanted;
}

VERIFIED_ALONE int policy_permits(__u32 set, __u32 identity, __u32 block, __u32 wanted) {
  struct kalsae_policy_rule_key key = {.set = set, .identity = identity, .block = block};
  __u64 *permit = bpf_map_lookup_elem(&policy_rules, &key);
  if (!permit) return false;
  __u64 word = *permit;
  switch (word >> KALSAE_PERMIT_SHIFT) {
  case KALSAE_PERMIT_ANY: return true;
  case KALSAE_PERMIT_RANGE: return (word & 0xffffff) <= wanted && wanted <= (word >> 24 & 0xffffff);
  case KALSAE_PERMIT_LIST: return policy_search((__u32)word, word >> 32 & 0xffffff, wanted);
  default: return false;
  }
}

/// Whether a set of rules lets a connection with a peer be (NP-3): `PolicyTable.allows`.
static __always_inline bool allows(
    __u32 set, const struct kalsae_address *peer, const struct kalsae_policy_pod *pod, bool is_ipv6, __u32 wanted) {
  __u32 identity = pod ? pod->identity : 0, block = 0;
  if (identity && policy_permits(set, identity, 0, wanted)) return true;
  struct kalsae_policy_block_key key = {.length = 160, .family = is_ipv6 ? 6 : 4, .address = *peer};
  __u32 *found = bpf_map_lookup_elem(&policy_blocks, &key);
  if (found) {
    block = *found;
    if (policy_permits(set, 0, block, wanted)) return true;
    if (identity && set & KALSAE_POLICY_PAIRS && policy_permits(set, identity, block, wanted)) return true;
  }
  return policy_permits(set, 0, 0, wanted);
}

static __always_inline struct kalsae_policy_pod *pod_at(__u64 where) {
  __u32 place = (__u32)where;
  return place ? bpf_map_lookup_elem(&policy_pods, &place) : 0;
}

static __always_inline __u64 where(const struct kalsae_address *address) {
  // Older kernels take keys from the stack only.
  struct kalsae_address key = *address;
  __u64 *word = bpf_map_lookup_elem(&policy_addresses, &key);
  return word ? *word : 0;
}

/// The device of the pod of this node that has an address; 0: none has.
static __always_inline __u32 device(const struct kalsae_address *address) {
  struct kalsae_policy_pod *pod = pod_at(where(address));
  return pod ? pod->interface : 0;
}

/// NP-7: whether an address is the own node's of a pod that runs here; a gateway's is, for those who have it themselves.
static __always_inline bool is_own_node(const struct packet *p, __u64 address, const struct kalsae_policy_pod *pod) {
  if (address & KALSAE_POLICY_GATEWAY && !p->is_foreign) return true;
  __u32 node = (__u32)(address >> KALSAE_POLICY_NODE_SHIFT) & KALSAE_POLICY_NODES;
  return address & KALSAE_POLICY_OWN || (pod->node && node == pod->node);
}

/// What both sides' policies say of a connection: 0, or why it may not be. `Core.policyProblem`. Of the packet only the
/// addresses count, from who opens to the other; `port` is the one that is opened, in host byte order.
VERIFIED_ALONE int policy_problem(const struct packet *p, bool is_reversed, __u32 wanted) {
  if (!p) return KALSAE_POLICY_DROP_TRUNCATED;
  const struct kalsae_address *source = is_reversed ? &p->destination : &p->source;
  const struct kalsae_address *destination = is_reversed ? &p->source : &p->destination;
  if (is_same(source, destination)) return 0;
  __u64 from = where(source), to = where(destination);
  struct kalsae_policy_pod *sender = pod_at(from), *receiver = pod_at(to);
  if (sender && sender->interface && sender->egress && !is_own_node(p, to, sender) &&
      !allows(sender->egress, destination, receiver, p->is_ipv6, wanted))
    return KALSAE_POLICY_DROP_EGRESS;
  if (receiver && receiver->interface && receiver->ingress && !is_own_node(p, from, receiver) &&
      !allows(receiver->ingress, source, sender, p->is_ipv6, wanted))
    return KALSAE_POLICY_DROP_INGRESS;
  return 0;
}

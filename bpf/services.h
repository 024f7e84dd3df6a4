#pragma once
// The service tables as the programs see them.
#include "kernel.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_frontend_key);
  __type(value, __u32);
} frontends SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, struct kalsae_frontend);
} frontend_rec SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, struct kalsae_service);
} services SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, __u64);
} lists SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, struct kalsae_backend);
} backends SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_member_key);
  __type(value, __u32);
} members SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_range_key);
  __type(value, __u32);
} ranges SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_address);
  __type(value, __u32);
} addresses SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_affinity_key);
  __type(value, struct kalsae_affinity);
} affinity SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, KALSAE_COUNTERS);
  __type(key, __u32);
  __type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 what) {
  __u64 *counter = bpf_map_lookup_elem(&counters, &what);
  if (counter) *counter += 1;
}

static __always_inline __u64 word_at(__u32 place) {
  __u64 *word = bpf_map_lookup_elem(&lists, &place);
  return word ? *word : 0;
}

static __always_inline bool is_ipv4(const struct kalsae_address *a) {
  return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_same(const struct kalsae_address *a, const struct kalsae_address *b) {
  return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

/// Who opens a connection (KP-33).
enum origin { ORIGIN_NODE, ORIGIN_POD, ORIGIN_OUTSIDE };

/// What is to become of a connection: as ServiceOutcome of the user-space path.
enum outcome {
  OUTCOME_NONE,
  OUTCOME_TRANSLATE,
  OUTCOME_REJECT_NO_ENDPOINT,
  OUTCOME_REJECT_NO_PORT,
  OUTCOME_DROP_NO_LOCAL,
  OUTCOME_DROP_RANGE,
};

struct question {
  struct kalsae_address source;
  struct kalsae_address destination;
  /// As on the wire.
  __u16 port;
  __u8 transport;
  __u8 origin;
  /// Whether all bits of `hash` are known; else Maglev services choose at random.
  bool has_hash;
  __u64 hash;
};

struct answer {
  struct kalsae_backend backend;
  __u64 service;
  __u8 kind;
  __u8 flags;
  bool is_local_only;
};

/// The place of the frontend of an address and port; NodePorts match last (KP-25). 0: none.
static __always_inline __u32 find_frontend(const struct question *q) {
  struct kalsae_frontend_key key = {.address = q->destination, .port = q->port, .transport = q->transport};
  __u32 *place = bpf_map_lookup_elem(&frontends, &key);
  if (place) return *place;
  __u32 *use = bpf_map_lookup_elem(&addresses, &key.address);
  if (!use || !(*use & KALSAE_ADDRESS_NODE_PORT)) return 0;
  // KP-23: never on ::1, which no table holds.
  key.address.word[0] = 0;
  key.address.word[1] = 0;
  key.address.word[2] = is_ipv4(&q->destination) ? bpf_htonl(0xffff) : 0;
  key.address.word[3] = 0;
  place = bpf_map_lookup_elem(&frontends, &key);
  return place ? *place : 0;
}

/// Whether some service has a cluster IP, on whatever port (KP-37).
static __always_inline bool is_known(const struct kalsae_address *address) {
  struct kalsae_frontend_key key = {.address = *address};
  return bpf_map_lookup_elem(&frontends, &key) != 0;
}

/// Looks whether an endpoint may still be used, and where it is remembered for a client (KP-50) renews that.
static __always_inline bool is_member(__u64 service, const struct kalsae_address *address, __u16 port, bool is_local) {
  struct kalsae_member_key key = {.service = service, .address = *address, .port = port};
  __u32 *sets = bpf_map_lookup_elem(&members, &key);
  return sets && (*sets & (is_local ? KALSAE_MEMBER_LOCAL : KALSAE_MEMBER_CLUSTER));
}

/// Chooses an endpoint from a set (KP-15, KP-50).
static __always_inline bool choose(
    __u32 list, const struct question *q, bool is_local, __u32 count_of_set, struct answer *a) {
  __u64 seconds = word_at(list + KALSAE_LIST_AFFINITY);
  struct kalsae_affinity_key key = {.client = q->source, .service = a->service};
  __u64 now = 0;
  if (seconds) {
    now = bpf_ktime_get_ns();
    struct kalsae_affinity *kept = bpf_map_lookup_elem(&affinity, &key);
    if (kept) {
      struct kalsae_affinity copy = *kept;
      if (copy.until > now && is_member(a->service, &copy.address, copy.port, is_local)) {
        kept->until = now + seconds * 1000000000ull;
        a->backend.address = copy.address;
        a->backend.port = copy.port;
        return true;
      }
    }
  }
  __u64 counts = word_at(list + KALSAE_LIST_COUNTS);
  __u64 sizes = word_at(list + KALSAE_LIST_MAGLEV);
  __u32 cluster = (__u32)counts, local = (__u32)(counts >> 32);
  __u32 size = is_local ? (__u32)(sizes >> 32) : (__u32)sizes;
  __u32 place = list + KALSAE_LIST_HEAD;
  if (size && q->has_hash) {
    place += cluster + local + (is_local ? (__u32)sizes : 0) + (__u32)(q->hash % size);
  } else {
    // A number below the count, all equally likely: the high half of a product.
    place += (is_local ? cluster : 0) + (__u32)(((__u64)bpf_get_prandom_u32() * count_of_set) >> 32);
  }
  __u32 index = (__u32)word_at(place);
  struct kalsae_backend *backend = bpf_map_lookup_elem(&backends, &index);
  if (!backend || !index) return false;
  a->backend = *backend;
  if (seconds) {
    struct kalsae_affinity value = {
        .address = a->backend.address, .port = a->backend.port, .until = now + seconds * 1000000000ull};
    bpf_map_update_elem(&affinity, &key, &value, BPF_ANY);
  }
  return true;
}

/// What the services say about a new connection: Core.balance of the user-space path, rule by rule.
static __always_inline enum outcome balance(const struct question *q, struct answer *a) {
  __u32 place = find_frontend(q);
  if (!place) return is_known(&q->destination) ? OUTCOME_REJECT_NO_PORT : OUTCOME_NONE;
  struct kalsae_frontend *record = bpf_map_lookup_elem(&frontend_rec, &place);
  if (!record) return OUTCOME_NONE;
  struct kalsae_frontend frontend;
  *(__u64 *)&frontend = *(volatile __u64 *)record;
  __u32 number = frontend.service;
  struct kalsae_service *service = bpf_map_lookup_elem(&services, &number);
  if (!service) return OUTCOME_NONE;
  __u32 list = *(volatile __u32 *)&service->list;
  if (!list) return OUTCOME_NONE;
  a->kind = frontend.kind;
  a->flags = frontend.flags;
  a->service = word_at(list + KALSAE_LIST_IDENTITY);
  __u64 counts = word_at(list + KALSAE_LIST_COUNTS);
  __u32 cluster = (__u32)counts, local = (__u32)(counts >> 32);
  // KP-30
  if (!counts) return OUTCOME_REJECT_NO_ENDPOINT;
  if ((frontend.flags & KALSAE_FRONTEND_RANGES) && frontend.kind == KALSAE_LOAD_BALANCER) {
    // KP-38: the node's own traffic counts as coming from the address itself.
    struct kalsae_range_key range = {.length = 160, .frontend = place};
    range.address = q->origin == ORIGIN_NODE ? q->destination : q->source;
    if (!bpf_map_lookup_elem(&ranges, &range)) return OUTCOME_DROP_RANGE;
  }
  // KP-33
  bool is_local = (frontend.flags & KALSAE_FRONTEND_LOCAL) &&
                  (frontend.kind == KALSAE_CLUSTER_IP || q->origin == ORIGIN_OUTSIDE);
  a->is_local_only = is_local;
  __u32 count_of_set = is_local ? local : cluster;
  // KP-31
  if (!count_of_set) return is_local && cluster ? OUTCOME_DROP_NO_LOCAL : OUTCOME_REJECT_NO_ENDPOINT;
  return choose(list, q, is_local, count_of_set, a) ? OUTCOME_TRANSLATE : OUTCOME_NONE;
}

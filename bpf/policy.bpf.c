// Network policy at pods' devices: `policy_from_pod` at tc ingress sees what a pod sends, `policy_to_pod` at tc egress what
// is sent to it. For nodes whose packets the kernel routes, without the data plane in user space: what that one decides
// (`Core+Policy`, `Core.isAcceptable`) these decide alike. They let a packet be or drop it, and change nothing.
//
// A first packet asks both sides' rules (NP-6), where it comes in; its connection is remembered in one table for all
// devices, and answers pass by that. No packet passes with an address of a pod that did not send it (NODE-4), so that a
// connection's addresses say by which devices its packets come.
#include "kernel.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include "ebpf_policy.h"

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

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_policy_connection_key);
  __type(value, struct kalsae_policy_connection);
} policy_conns SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 4096);
  __type(key, struct kalsae_policy_fragment_key);
  __type(value, struct kalsae_policy_fragment);
} policy_frags SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, KALSAE_POLICY_COUNTERS);
  __type(key, __u32);
  __type(value, __u64);
} policy_counts SEC(".maps");

/// The verifier follows every way through a function that others call with what they know. Those that are not static it
/// looks at once, by themselves.
#define VERIFIED_ALONE __attribute__((noinline))

// linux/icmp.h wants a C library.
enum { ECHO_REPLY = 0, TIMESTAMP_REPLY = 14, ECHO_REPLY6 = 129 };

static __always_inline bool is_icmp_error(__u8 type) {
  return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

/// Dropped packets, for whoever looks (`kalsae ebpf dump drops`); what finds no room is counted only.
struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 16);
} policy_samples SEC(".maps");

/// A packet as policy sees it.
struct packet {
  struct kalsae_address source;
  struct kalsae_address destination;
  /// As on the wire; of an ICMP query its identifier, twice.
  __u16 source_port;
  __u16 destination_port;
  /// Where the transport's header is, and where the network-layer packet ends.
  __u32 offset;
  __u32 end;
  __u32 identification;
  __u8 transport;
  __u8 tcp_flags;
  bool is_ipv6;
  bool is_reply;
  bool is_error;
  bool is_fragment;
  bool is_later_fragment;
  /// Neighbour discovery.
  bool is_resolution;
};

static __always_inline __u64 state(__u32 what) {
  __u64 *word = bpf_map_lookup_elem(&policy_state, &what);
  return word ? *(volatile __u64 *)word : 0;
}

static __always_inline void set_ipv4(struct kalsae_address *a, __u32 address) {
  a->word[0] = 0;
  a->word[1] = 0;
  a->word[2] = bpf_htonl(0xffff);
  a->word[3] = address;
}

static __always_inline bool is_ipv4(const struct kalsae_address *a) {
  return !(a->word[0] | a->word[1]) && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_same(const struct kalsae_address *a, const struct kalsae_address *b) {
  return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

// MARK: Reading

/// What the transport's header says: `Core.readTransport`. 0, or why the packet is dropped.
static __always_inline __u32 read_transport(struct __sk_buff *skb, struct packet *p) {
  __u8 head[14] = {};
  bool is_icmp = p->transport == (p->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
  if (p->transport == IPPROTO_TCP) {
    // As far as the flags; the rest has to be there.
    if (p->offset + 20 > p->end || bpf_skb_load_bytes(skb, p->offset, head, 14)) return KALSAE_POLICY_DROP_TRANSPORT;
    p->tcp_flags = head[13];
  } else if (is_icmp || p->transport == IPPROTO_UDP || p->transport == IPPROTO_SCTP) {
    __u32 length = p->transport == IPPROTO_SCTP ? 12 : 8;
    if (p->offset + length > p->end || bpf_skb_load_bytes(skb, p->offset, head, 8)) return KALSAE_POLICY_DROP_TRANSPORT;
  } else {
    return 0;
  }
  if (is_icmp) {
    p->is_error = p->is_ipv6 ? head[0] < 128 : is_icmp_error(head[0]);
    p->is_reply = p->is_ipv6 ? head[0] == ECHO_REPLY6 : head[0] == ECHO_REPLY || head[0] == TIMESTAMP_REPLY;
    p->is_resolution = p->is_ipv6 && head[0] >= 133 && head[0] <= 137;
    if (p->is_error) return 0;
    p->source_port = p->destination_port = (__u16)(head[4] | head[5] << 8);
  } else {
    p->source_port = (__u16)(head[0] | head[1] << 8);
    p->destination_port = (__u16)(head[2] | head[3] << 8);
  }
  return 0;
}

/// Whether IPv4's options from `offset` to `end` name a route.
VERIFIED_ALONE int policy_find_route(struct __sk_buff *skb, __u32 offset, __u32 end) {
  for (int i = 0; i < 40; i++) {
    __u8 option[2] = {};
    if (offset >= end || bpf_skb_load_bytes(skb, offset, option, 1) || !option[0]) return false;
    if (option[0] == 1) {
      offset++;
      continue;
    }
    if (bpf_skb_load_bytes(skb, offset, option, 2) || option[1] < 2) return false;
    // Loose and strict source routes (RFC 791).
    if (option[0] == 131 || option[0] == 137) return true;
    offset += option[1];
  }
  return false;
}

static __always_inline __u32 read_ipv4(struct __sk_buff *skb, struct packet *p, __u32 offset) {
  struct iphdr ip;
  if (bpf_skb_load_bytes(skb, offset, &ip, sizeof ip)) return KALSAE_POLICY_DROP_IPV4_HEADER;
  __u8 first = *(const __u8 *)&ip;
  __u32 header = (first & 15) * 4, length = bpf_ntohs(ip.tot_len);
  if (first >> 4 != 4 || header < 20 || length < header || offset + length > skb->len)
    return KALSAE_POLICY_DROP_IPV4_HEADER;
  set_ipv4(&p->source, ip.saddr);
  set_ipv4(&p->destination, ip.daddr);
  p->transport = ip.protocol;
  p->offset = offset + header;
  p->end = offset + length;
  p->identification = ip.id;
  p->is_fragment = ip.frag_off & bpf_htons(0x3fff);
  p->is_later_fragment = ip.frag_off & bpf_htons(0x1fff);
  if (header > 20 && policy_find_route(skb, offset + 20, p->offset)) return KALSAE_POLICY_DROP_SOURCE_ROUTE;
  return 0;
}

/// Goes on from the header that is named by `transport`, at `offset`, to the transport's: `IPv6UpperLayer`. 0, or why the
/// packet is dropped.
VERIFIED_ALONE int policy_walk(struct __sk_buff *skb, struct packet *p) {
  if (!p) return KALSAE_POLICY_DROP_TRUNCATED;
  __u32 next = p->transport, offset = p->offset;
  bool has_fragment = false, has_route = false, is_routed = false;
  for (int i = 0; i <= 8; i++) {
    if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT && next != IPPROTO_AH &&
        next != IPPROTO_DSTOPTS)
      break;
    __u8 head[8];
    if (i == 8 || offset + sizeof head > p->end || bpf_skb_load_bytes(skb, offset, head, sizeof head))
      return KALSAE_POLICY_DROP_EXTENSION;
    __u32 length = (head[1] + 1) * 8;
    if (next == IPPROTO_HOPOPTS && i) return KALSAE_POLICY_DROP_EXTENSION;
    if (next == IPPROTO_FRAGMENT) {
      if (has_fragment) return KALSAE_POLICY_DROP_EXTENSION;
      has_fragment = true;
      p->is_fragment = head[2] | (head[3] & 0xf9);
      p->is_later_fragment = head[2] | (head[3] & 0xf8);
      p->identification = (__u32)head[4] | (__u32)head[5] << 8 | (__u32)head[6] << 16 | (__u32)head[7] << 24;
      length = 8;
    } else if (next == IPPROTO_AH) {
      length = (head[1] + 2) * 4;
    } else if (next == IPPROTO_ROUTING && head[3] && !has_route) {
      has_route = true;
      // RFC 5095
      is_routed = !head[2];
    }
    offset += length;
    if (offset > p->end) return KALSAE_POLICY_DROP_EXTENSION;
    next = head[0];
    // What follows is the middle of something.
    if (p->is_later_fragment) break;
  }
  p->transport = (__u8)next;
  p->offset = offset;
  return is_routed ? KALSAE_POLICY_DROP_SOURCE_ROUTE : 0;
}

static __always_inline __u32 read_ipv6(struct __sk_buff *skb, struct packet *p, __u32 offset) {
  struct ipv6hdr ip;
  if (bpf_skb_load_bytes(skb, offset, &ip, sizeof ip)) return KALSAE_POLICY_DROP_IPV6_HEADER;
  if (*(const __u8 *)&ip >> 4 != 6) return KALSAE_POLICY_DROP_IPV6_HEADER;
  __builtin_memcpy(&p->source, &ip.saddr, 16);
  __builtin_memcpy(&p->destination, &ip.daddr, 16);
  p->is_ipv6 = true;
  p->transport = ip.nexthdr;
  p->offset = offset + sizeof ip;
  p->end = p->offset + bpf_ntohs(ip.payload_len);
  if (p->end > skb->len) return KALSAE_POLICY_DROP_IPV6_HEADER;
  // An IPv4 address in IPv6's clothes (RFC 4291, section 2.5.5.2) would be taken for the other.
  if (is_ipv4(&p->source)) return KALSAE_POLICY_DROP_SOURCE;
  if (is_ipv4(&p->destination)) return KALSAE_POLICY_DROP_DESTINATION;
  return policy_walk(skb, p);
}

/// Gives later fragments the ports of the first one (TUN-8). 0, or why the packet is dropped.
static __always_inline __u32 follow_fragment(struct packet *p) {
  struct kalsae_policy_fragment_key key = {
      .source = p->source,
      .destination = p->destination,
      .identification = p->identification,
      .transport = p->is_ipv6 ? 0 : p->transport};
  __u64 now = bpf_ktime_get_coarse_ns();
  if (!p->is_later_fragment) {
    struct kalsae_policy_fragment value = {
        .seen = now,
        .ports = p->source_port | (__u32)p->destination_port << 16,
        .transport = p->transport | (p->is_reply ? 256 : 0)};
    bpf_map_update_elem(&policy_frags, &key, &value, BPF_ANY);
    return 0;
  }
  struct kalsae_policy_fragment *first = bpf_map_lookup_elem(&policy_frags, &key);
  if (!first || now - first->seen > state(KALSAE_POLICY_FRAGMENT) * 1000000000ull) return KALSAE_POLICY_DROP_FRAGMENT;
  p->source_port = (__u16)first->ports;
  p->destination_port = (__u16)(first->ports >> 16);
  p->transport = (__u8)first->transport;
  p->is_reply = first->transport & 256;
  return 0;
}

// MARK: Rules

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

/// NP-7: whether an address is the own node's of a pod that runs here.
static __always_inline bool is_own_node(__u64 address, const struct kalsae_policy_pod *pod) {
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
  if (sender && sender->interface && sender->egress && !is_own_node(to, sender) &&
      !allows(sender->egress, destination, receiver, p->is_ipv6, wanted))
    return KALSAE_POLICY_DROP_EGRESS;
  if (receiver && receiver->interface && receiver->ingress && !is_own_node(from, receiver) &&
      !allows(receiver->ingress, source, sender, p->is_ipv6, wanted))
    return KALSAE_POLICY_DROP_INGRESS;
  return 0;
}

// MARK: Connections

/// `FlowKeyTail.isQuery`
static __always_inline bool is_query(const struct packet *p) {
  return p->transport == IPPROTO_ICMP || p->transport == IPPROTO_ICMPV6;
}

/// Whether a packet comes from the second end of its connection.
static __always_inline bool find_key(const struct packet *p, struct kalsae_policy_connection_key *key) {
  bool is_second = false;
  if (is_query(p)) {
    is_second = p->is_reply;
  } else {
    bool is_decided = false;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (is_decided || p->source.word[i] == p->destination.word[i]) continue;
      is_decided = true;
      is_second = p->source.word[i] > p->destination.word[i];
    }
    if (!is_decided) is_second = p->source_port > p->destination_port;
  }
  key->first = is_second ? p->destination : p->source;
  key->second = is_second ? p->source : p->destination;
  key->first_port = is_second ? p->destination_port : p->source_port;
  key->second_port = is_second ? p->source_port : p->destination_port;
  key->transport = p->transport;
  return is_second;
}

/// Nanoseconds that a connection may be silent: `Settings.Timeouts.idle`.
static __always_inline __u64 patience(const struct packet *p, __u32 flags) {
  __u32 what = KALSAE_POLICY_OTHER;
  if (p->transport == IPPROTO_TCP) {
    __u32 fins = KALSAE_POLICY_FIRST_FIN | KALSAE_POLICY_SECOND_FIN;
    if (flags & KALSAE_POLICY_RESET || (flags & fins) == fins) return 10 * 1000000000ull;
    what = flags & fins || !(flags & KALSAE_POLICY_ANSWERED) ? KALSAE_POLICY_TCP_TRANSIENT : KALSAE_POLICY_TCP_ESTABLISHED;
  } else if (p->transport == IPPROTO_UDP) {
    what = KALSAE_POLICY_UDP;
  } else if (p->transport == IPPROTO_SCTP) {
    what = KALSAE_POLICY_SCTP;
  } else if (is_query(p)) {
    what = KALSAE_POLICY_ICMP;
  }
  return state(what) * 1000000000ull;
}

/// The port that a connection opens, with its protocol.
static __always_inline __u32 wanted_port(const struct packet *p, bool is_reversed) {
  __u16 port = is_reversed ? p->source_port : p->destination_port;
  return (__u32)p->transport << 16 | bpf_ntohs(port);
}

/// Whether a packet's connection is known and still allowed. `reason`: 0, or why it is not any more. Without `notes` it is
/// only looked up, for an error about it.
static __always_inline bool is_known(const struct packet *p, bool notes, __u32 *reason) {
  struct kalsae_policy_connection_key key;
  bool is_second = find_key(p, &key);
  struct kalsae_policy_connection *connection = bpf_map_lookup_elem(&policy_conns, &key);
  if (!connection) return false;
  __u64 now = bpf_ktime_get_coarse_ns();
  if (now - connection->last_seen > patience(p, connection->flags)) return false;
  bool second_opened = connection->flags & KALSAE_POLICY_SECOND_OPENED;
  bool is_reversed = is_second != second_opened;
  // Read before the rules are: what changes meanwhile has the next packet ask again.
  __u32 epoch = (__u32)state(KALSAE_POLICY_EPOCH);
  if (notes && connection->epoch != epoch) {
    *reason = policy_problem(p, is_reversed, wanted_port(p, is_reversed));
    if (*reason) {
      bpf_map_delete_elem(&policy_conns, &key);
      return false;
    }
    connection->epoch = epoch;
  }
  if (!notes) return true;
  __u32 flags = connection->flags, fins = KALSAE_POLICY_FIRST_FIN | KALSAE_POLICY_SECOND_FIN;
  if (is_reversed) flags |= KALSAE_POLICY_ANSWERED;
  if (p->transport == IPPROTO_TCP) {
    if (p->tcp_flags & 1) flags |= is_second ? KALSAE_POLICY_SECOND_FIN : KALSAE_POLICY_FIRST_FIN;
    if (p->tcp_flags & 4) flags |= KALSAE_POLICY_RESET;
    // A SYN alone on the ports of a connection that has ended opens another.
    if ((p->tcp_flags & 0x17) == 2 && flags & (fins | KALSAE_POLICY_RESET)) flags &= KALSAE_POLICY_SECOND_OPENED;
  }
  if (flags != connection->flags) connection->flags = flags;
  connection->last_seen = now;
  return true;
}

/// Whether an ICMP error is about a connection that is known, and so allowed as its answers are (NP-6): it comes to who
/// sent the packet that it quotes, from where that one was going.
VERIFIED_ALONE int policy_expects(struct __sk_buff *skb, const struct packet *p) {
  if (!p || p->is_fragment) return false;
  struct packet quoted = {.is_ipv6 = p->is_ipv6, .end = p->end};
  __u8 head[8];
  __u32 offset = p->offset + 8;
  // What is quoted may be cut short: of its lengths only the header's counts.
  if (p->is_ipv6) {
    struct ipv6hdr ip;
    if (offset + sizeof ip > p->end || bpf_skb_load_bytes(skb, offset, &ip, sizeof ip)) return false;
    if (*(const __u8 *)&ip >> 4 != 6) return false;
    __builtin_memcpy(&quoted.source, &ip.saddr, 16);
    __builtin_memcpy(&quoted.destination, &ip.daddr, 16);
    if (is_ipv4(&quoted.source) || is_ipv4(&quoted.destination)) return false;
    quoted.transport = ip.nexthdr;
    quoted.offset = offset + sizeof ip;
    __u32 end = quoted.offset + bpf_ntohs(ip.payload_len);
    if (end < quoted.end) quoted.end = end;
    __u32 problem = policy_walk(skb, &quoted);
    if (problem && problem != KALSAE_POLICY_DROP_SOURCE_ROUTE) return false;
  } else {
    struct iphdr ip;
    if (offset + sizeof ip > p->end || bpf_skb_load_bytes(skb, offset, &ip, sizeof ip)) return false;
    __u8 first = *(const __u8 *)&ip;
    if (first >> 4 != 4 || (first & 15) < 5) return false;
    set_ipv4(&quoted.source, ip.saddr);
    set_ipv4(&quoted.destination, ip.daddr);
    quoted.transport = ip.protocol;
    quoted.is_later_fragment = ip.frag_off & bpf_htons(0x1fff);
    quoted.offset = offset + (first & 15) * 4;
  }
  if (quoted.is_later_fragment || quoted.offset + sizeof head > p->end) return false;
  if (!is_same(&quoted.source, &p->destination) || device(&quoted.destination) != device(&p->source)) return false;
  if (bpf_skb_load_bytes(skb, quoted.offset, head, sizeof head)) return false;
  if (is_query(&quoted)) {
    quoted.is_reply = quoted.transport == IPPROTO_ICMPV6 ? head[0] == ECHO_REPLY6
                                                         : head[0] == ECHO_REPLY || head[0] == TIMESTAMP_REPLY;
    quoted.source_port = quoted.destination_port = (__u16)(head[4] | head[5] << 8);
  } else if (quoted.transport == IPPROTO_TCP || quoted.transport == IPPROTO_UDP || quoted.transport == IPPROTO_SCTP) {
    quoted.source_port = (__u16)(head[0] | head[1] << 8);
    quoted.destination_port = (__u16)(head[2] | head[3] << 8);
  }
  __u32 reason = 0;
  return is_known(&quoted, false, &reason);
}

// MARK: Packets

/// Reads a packet. 0, or the counter of what it is instead of one that policy decides.
VERIFIED_ALONE int policy_read(struct __sk_buff *skb, struct packet *p) {
  __u32 reason;
  if (!p) return KALSAE_POLICY_DROP_TRUNCATED;
  // A priority tag (identifier 0) belongs to every device.
  if (skb->vlan_present && skb->vlan_tci & 0xfff) return KALSAE_POLICY_DROP_VLAN;
  if (skb->protocol == bpf_htons(ETH_P_IP)) {
    reason = read_ipv4(skb, p, ETH_HLEN);
  } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
    reason = read_ipv6(skb, p, ETH_HLEN);
  } else if (skb->protocol == bpf_htons(ETH_P_ARP)) {
    return KALSAE_POLICY_PASSED;
  } else if (skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD)) {
    return KALSAE_POLICY_DROP_VLAN;
  } else {
    return KALSAE_POLICY_DROP_ETHER_TYPE;
  }
  if (reason || p->is_later_fragment) return reason;
  return read_transport(skb, p);
}

static __always_inline bool is_link_local(const struct kalsae_address *a) {
  return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/// `Core.sourceProblem`, at the device that a packet came in by; 0: the node's own. 0, or why it may not have come.
static __always_inline __u32 source_problem(const struct packet *p, __u32 ingress, bool is_from_pod) {
  const __u8 *octets = (const __u8 *)&p->source;
  bool is_valid =
      p->is_ipv6
          ? octets[0] != 0xff && !is_link_local(&p->source) &&
                (p->source.word[0] | p->source.word[1] | p->source.word[2] | (p->source.word[3] & ~bpf_htonl(1)))
          : octets[12] && octets[12] != 127 && octets[12] >> 4 != 14 && ~p->source.word[3];
  if (!is_valid) return KALSAE_POLICY_DROP_INVALID_SOURCE;
  // NODE-4: a pod sends from its own addresses, and nobody else does.
  __u32 own = device(&p->source);
  return own == ingress || (!own && !is_from_pod) ? 0 : KALSAE_POLICY_DROP_SOURCE;
}

/// `Core.isAcceptable`: whether a first packet may pass at all. 0, or the counter of what it is instead of one that policy
/// decides.
static __always_inline __u32 first_problem(const struct packet *p, bool is_from_pod) {
  const __u8 *octets = (const __u8 *)&p->destination;
  if (p->is_ipv6) {
    if (octets[0] == 0xff) return KALSAE_POLICY_DROP_MULTICAST;
    if (!(p->destination.word[0] | p->destination.word[1] | p->destination.word[2] |
          (p->destination.word[3] & ~bpf_htonl(1))))
      return KALSAE_POLICY_DROP_DESTINATION;
  } else {
    if (octets[12] >> 4 == 14 || !~p->destination.word[3]) return KALSAE_POLICY_DROP_MULTICAST;
    if (!octets[12] || octets[12] == 127) return KALSAE_POLICY_DROP_DESTINATION;
  }
  if (is_from_pod) {
    // NODE-4
    if (p->transport == IPPROTO_IPIP || p->transport == IPPROTO_IPV6 || p->transport == IPPROTO_GRE)
      return KALSAE_POLICY_DROP_TUNNEL;
    __u32 port = bpf_ntohs(p->destination_port);
    if (p->transport == IPPROTO_UDP && (port == state(KALSAE_POLICY_VXLAN) || port == state(KALSAE_POLICY_GENEVE)))
      return KALSAE_POLICY_DROP_TUNNEL;
    if (where(&p->destination) & KALSAE_POLICY_GATEWAY) return KALSAE_POLICY_ALLOWED;
  }
  if (p->is_ipv6 && is_link_local(&p->destination)) return KALSAE_POLICY_DROP_DESTINATION;
  // KP-39: a connection whose beginning was not seen.
  if (p->transport == IPPROTO_TCP && (p->tcp_flags & 0x17) != 2 && state(KALSAE_POLICY_STRICT))
    return KALSAE_POLICY_DROP_NO_SYN;
  return 0;
}

/// What becomes of a packet of a connection: the counter that says so.
VERIFIED_ALONE int policy_connect(struct packet *p, bool is_from_pod) {
  __u32 reason = 0;
  if (!p) return KALSAE_POLICY_DROP_TRUNCATED;
  if (is_known(p, true, &reason)) return KALSAE_POLICY_KNOWN;
  if (!reason) reason = first_problem(p, is_from_pod);
  if (reason) return reason;
  // Read before the rules are: what changes meanwhile has the next packet ask again.
  __u32 epoch = (__u32)state(KALSAE_POLICY_EPOCH);
  reason = policy_problem(p, false, wanted_port(p, false));
  if (reason) return reason;
  struct kalsae_policy_connection_key key;
  bool is_second = find_key(p, &key);
  struct kalsae_policy_connection connection = {
      .last_seen = bpf_ktime_get_coarse_ns(), .epoch = epoch, .flags = is_second ? KALSAE_POLICY_SECOND_OPENED : 0};
  if (p->transport == IPPROTO_TCP) {
    if (p->tcp_flags & 1) connection.flags |= is_second ? KALSAE_POLICY_SECOND_FIN : KALSAE_POLICY_FIRST_FIN;
    if (p->tcp_flags & 4) connection.flags |= KALSAE_POLICY_RESET;
  }
  bpf_map_update_elem(&policy_conns, &key, &connection, BPF_ANY);
  return KALSAE_POLICY_ALLOWED;
}

/// What becomes of an ICMP error.
VERIFIED_ALONE int policy_report(struct __sk_buff *skb, struct packet *p, bool is_from_pod) {
  if (!p) return KALSAE_POLICY_DROP_TRUNCATED;
  __u32 reason = first_problem(p, is_from_pod);
  if (reason) return reason;
  if (policy_expects(skb, p)) return KALSAE_POLICY_KNOWN;
  reason = policy_problem(p, false, (__u32)p->transport << 16);
  return reason ? reason : KALSAE_POLICY_ALLOWED;
}

/// Neighbour discovery concerns the link alone: what a pod tells the node, and the node a pod.
static __always_inline __u32 resolve(const struct packet *p, __u32 ingress, bool is_from_pod) {
  const __u8 *octets = (const __u8 *)&p->destination;
  if (!is_from_pod) return ingress ? KALSAE_POLICY_DROP_DESTINATION : KALSAE_POLICY_PASSED;
  bool is_here = octets[0] == 0xff || is_link_local(&p->destination) ||
                 where(&p->destination) & (KALSAE_POLICY_OWN | KALSAE_POLICY_GATEWAY);
  return is_here ? KALSAE_POLICY_PASSED : KALSAE_POLICY_DROP_DESTINATION;
}

/// What becomes of a packet: the counter that says so.
static __always_inline __u32 judge(struct __sk_buff *skb, bool is_from_pod) {
  struct packet p = {};
  // Where a routed packet came in is still known where it goes out.
  __u32 ingress = skb->ingress_ifindex;
  __u32 reason = policy_read(skb, &p);
  if (reason) return reason;
  if (p.is_resolution) return resolve(&p, ingress, is_from_pod);
  // What was sent to a group by its link-layer address (RFC 1812, section 5.3.4); broadcast, multicast.
  if (is_from_pod && (skb->pkt_type == 1 || skb->pkt_type == 2)) return KALSAE_POLICY_DROP_MULTICAST;
  reason = source_problem(&p, ingress, is_from_pod);
  if (!reason && p.is_fragment) reason = follow_fragment(&p);
  if (reason) return reason;
  return p.is_error ? policy_report(skb, &p, is_from_pod) : policy_connect(&p, is_from_pod);
}

/// Keeps the beginning of a packet that is dropped.
VERIFIED_ALONE int policy_sample(struct __sk_buff *skb, __u32 reason) {
  struct kalsae_drop_sample sample = {.time = bpf_ktime_get_ns(), .interface = skb->ifindex, .reason = reason};
  if (skb->len > ETH_HLEN) sample.length = skb->len - ETH_HLEN;
  // Lengths that the verifier can follow: as much as is there, or as far as the headers.
  if (sample.length >= 96 && !bpf_skb_load_bytes(skb, ETH_HLEN, sample.octets, 96))
    sample.count = 96;
  else if (sample.length >= 60 && !bpf_skb_load_bytes(skb, ETH_HLEN, sample.octets, 60))
    sample.count = 60;
  else if (sample.length >= 40 && !bpf_skb_load_bytes(skb, ETH_HLEN, sample.octets, 40))
    sample.count = 40;
  else if (sample.length >= 28 && !bpf_skb_load_bytes(skb, ETH_HLEN, sample.octets, 28))
    sample.count = 28;
  return (int)bpf_ringbuf_output(&policy_samples, &sample, sizeof sample, 0);
}

static __always_inline int enforce(struct __sk_buff *skb, bool is_from_pod) {
  __u32 what = judge(skb, is_from_pod);
  __u64 *counter = bpf_map_lookup_elem(&policy_counts, &what);
  if (counter) *counter += 1;
  if (what < KALSAE_POLICY_DROP_EGRESS) return TC_ACT_UNSPEC;
  policy_sample(skb, what);
  return TC_ACT_SHOT;
}

SEC("tc") int policy_from_pod(struct __sk_buff *skb) { return enforce(skb, true); }

SEC("tc") int policy_to_pod(struct __sk_buff *skb) { return enforce(skb, false); }

#pragma once
// Connections that policies let be, and what belongs to them: answers, fragments, ICMP errors.
#include "policy_rules.h"

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

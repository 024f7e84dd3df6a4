// Network policy at pods' devices: `policy_from_pod` at tc ingress sees what a pod sends, `policy_to_pod` at tc egress what
// is sent to it. For nodes whose packets the kernel routes, without the data plane in user space: what that one decides
// (`Core+Policy`, `Core.isAcceptable`) these decide alike. They let a packet be or drop it, and change nothing.
//
// A first packet asks both sides' rules (NP-6), where it comes in; its connection is remembered in one table for all
// devices, and answers pass by that. No packet passes with an address of a pod that did not send it (NODE-4), so that a
// connection's addresses say by which devices its packets come.
#include "policy_connections.h"

#include <linux/pkt_cls.h>

/// Those of tc_lb, where it has any.
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_connection_key);
  __type(value, struct kalsae_connection);
} connections SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, KALSAE_POLICY_COUNTERS);
  __type(key, __u32);
  __type(value, __u64);
} policy_counts SEC(".maps");

/// Dropped packets, for whoever looks (`kalsae drops`); what finds no room is counted only.
struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 16);
} policy_samples SEC(".maps");

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

/// Whether an endpoint answers by the service's address what was sent to it whole, in IPIP (`make_direct` of tc_lb).
static __always_inline bool is_direct_answer(const struct packet *p, __u32 ingress) {
  struct kalsae_connection_key key = {
      .source = p->destination,
      .destination = p->source,
      .source_port = p->destination_port,
      .destination_port = p->source_port,
      .transport = p->transport};
  struct kalsae_connection *sent = bpf_map_lookup_elem(&connections, &key);
  return sent && sent->flags & KALSAE_CONNECTION_DIRECT && device(&sent->destination) == ingress;
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
  p.is_foreign = !is_from_pod && ingress && !device(&p.source);
  reason = source_problem(&p, ingress, is_from_pod);
  if (reason == KALSAE_POLICY_DROP_SOURCE && is_from_pod && is_direct_answer(&p, ingress)) return KALSAE_POLICY_KNOWN;
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

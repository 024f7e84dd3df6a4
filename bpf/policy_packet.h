#pragma once
// Packets as policy.bpf.c sees them, and how they are read.
#include "kernel.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "ebpf_policy.h"

/// The verifier follows every way through a function that others call with what they know. Those that are not static it
/// looks at once, by themselves.
#define VERIFIED_ALONE __attribute__((noinline))

// linux/icmp.h wants a C library.
enum { ECHO_REPLY = 0, TIMESTAMP_REPLY = 14, ECHO_REPLY6 = 129 };

static __always_inline bool is_icmp_error(__u8 type) {
  return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

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
  /// Came to the node by a device that is no pod's here.
  bool is_foreign;
};

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

static __always_inline bool is_link_local(const struct kalsae_address *a) {
  return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

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

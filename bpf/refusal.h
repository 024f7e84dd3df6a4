#pragma once
// Answers to whoever wants a connection that nobody takes (KP-30, KP-37), as `refuse` of the user-space path makes them: a
// TCP reset, or an ICMP port unreachable. They are written over the packet and go back the way it came.
#include "packet.h"

/// The longest part of a packet that is read at once.
#define PIECE 512

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u8[PIECE + 8]);
} lb_piece SEC(".maps");

/// When there is room for the next error: errors are limited to a rate. Processors that write at once lose one.
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} lb_budget SEC(".maps");

static __always_inline bool take_budget(const struct kalsae_lb_config *config) {
  __u32 zero = 0;
  __u64 *next = bpf_map_lookup_elem(&lb_budget, &zero);
  if (!next || !config->error_rate || !config->error_burst) return false;
  __u64 now = bpf_ktime_get_ns(), interval = 1000000000ull / config->error_rate;
  __u64 from = *next > now ? *next : now;
  if (from - now > interval * (config->error_burst - 1)) {
    count(KALSAE_LB_LIMITED);
    return false;
  }
  *next = from + interval;
  return true;
}

/// Writes a frame's and a network-layer header: to the sender, by its own way where that is known (`w->place`), else back to
/// where the packet came from.
static __always_inline bool address_back(
    struct __sk_buff *skb, struct work *w, const struct kalsae_address *source, __u16 length, __u8 transport,
    __u8 class, __u16 fragment) {
  struct {
    __u8 destination[6];
    __u8 source[6];
  } ends;
  if (w->place.kind == KALSAE_PLACE_FRAME) {
    __builtin_memcpy(&ends, w->place.destination, 12);
  } else {
    __builtin_memcpy(ends.destination, w->head.source, 6);
    __builtin_memcpy(ends.source, w->head.destination, 6);
  }
  if (store(skb, 0, &ends, 12)) return false;
  if (w->is_v4) {
    struct iphdr ip = {
        .tos = class, .tot_len = bpf_htons(length), .frag_off = bpf_htons(fragment), .ttl = 64, .protocol = transport,
        .saddr = source->word[3], .daddr = w->key.source.word[3]};
    *(__u8 *)&ip = 0x45;
    ip.check = (__u16)~fold((__u32)bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof ip, 0));
    __u16 type = bpf_htons(ETH_P_IP);
    return !store(skb, 12, &type, 2) && !store(skb, ETH_HLEN, &ip, sizeof ip);
  }
  struct ipv6hdr ip = {.payload_len = bpf_htons(length - 40), .nexthdr = transport, .hop_limit = 64};
  *(__u32 *)&ip = bpf_htonl(0x60000000);
  __builtin_memcpy(&ip.saddr, source, 16);
  __builtin_memcpy(&ip.daddr, &w->key.source, 16);
  __u16 type = bpf_htons(ETH_P_IPV6);
  return !store(skb, 12, &type, 2) && !store(skb, ETH_HLEN, &ip, sizeof ip);
}

/// The sum of a pseudo header.
static __always_inline __u32 pseudo(
    struct work *w, const struct kalsae_address *source, __u32 length, __u32 transport) {
  __builtin_memcpy(w->before, source, 16);
  __builtin_memcpy(w->before + 4, &w->key.source, 16);
  return (__u32)bpf_csum_diff(0, 0, w->before, 32, bpf_htonl(length + transport));
}

/// Turns a TCP segment into the reset that answers it (RFC 9293, section 3.10.7.1).
static __always_inline bool write_reset(struct __sk_buff *skb, struct work *w) {
  __u32 network = w->is_v4 ? 20 : 40;
  __u32 header = w->tcp.doff * 4, payload = w->length - network;
  payload = payload > header ? payload - header : 0;
  bool is_acknowledging = w->tcp.ack;
  struct tcphdr reset = {.source = w->tcp.dest, .dest = w->tcp.source, .doff = 5, .rst = 1};
  if (is_acknowledging) {
    reset.seq = w->tcp.ack_seq;
  } else {
    reset.ack = 1;
    reset.ack_seq = bpf_htonl(bpf_ntohl(w->tcp.seq) + payload + w->tcp.syn + w->tcp.fin);
  }
  __u32 sum = (__u32)bpf_csum_diff(0, 0, (__be32 *)&reset, sizeof reset, 0);
  __u32 ends = pseudo(w, &w->key.destination, sizeof reset, IPPROTO_TCP);
  if (bpf_skb_change_tail(skb, ETH_HLEN + network + sizeof reset, 0)) return false;
  if (!address_back(skb, w, &w->key.destination, (__u16)(network + sizeof reset), IPPROTO_TCP, 0, 0x4000)) return false;
  if (store(skb, ETH_HLEN + network, &reset, sizeof reset)) return false;
  // Of a checksum that the device finishes only the pseudo header is summed here (TUN-9).
  __u32 field = ETH_HLEN + network + 16;
  return !bpf_l4_csum_replace(skb, field, 0, ends, BPF_F_PSEUDO_HDR) && !bpf_l4_csum_replace(skb, field, 0, sum, 0);
}

/// Sums octets of a packet.
static __always_inline bool sum_packet(struct __sk_buff *skb, __u32 offset, __u32 length, __u32 *sum) {
  __u32 zero = 0;
  __u8 *piece = bpf_map_lookup_elem(&lb_piece, &zero);
  if (!piece) return false;
#pragma unroll
  for (int i = 0; i < 3; i++) {
    if (!length) break;
    __u32 part = length > PIECE ? PIECE : length;
    // 1 to PIECE, so that verifiers see it.
    asm volatile("" : "+r"(part));
    part = ((part - 1) & (PIECE - 1)) + 1;
    // What is behind an odd end.
    *(__u32 *)(piece + (part & ~3u)) = 0;
    if (bpf_skb_load_bytes(skb, offset, piece, part)) return false;
    *sum = (__u32)bpf_csum_diff(0, 0, (__be32 *)piece, (part + 3) & ~3u, *sum);
    offset += part;
    length -= part;
  }
  return true;
}

/// Turns a datagram into the ICMP port unreachable that answers it (RFC 792, RFC 1812, RFC 4443): at most 576 octets for
/// IPv4 and 1280 for IPv6.
static __always_inline bool write_unreachable(
    struct __sk_buff *skb, struct work *w, const struct kalsae_address *source) {
  __u32 network = w->is_v4 ? 20 : 40, room = network + 8, most = w->is_v4 ? 576 - 28 : 1280 - 48;
  __u32 quoted = w->length < most ? w->length : most;
  if (bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0)) return false;
  // Whether the datagram's checksum is one that the device finishes: then it shows no change of what is summed.
  __u16 before, after;
  __u32 field = w->transport + 6;
  if (load(skb, field, &before, 2) || bpf_l4_csum_replace(skb, field, 0, 1, 0) || load(skb, field, &after, 2)) return false;
  if (before != after && store(skb, field, &before, 2)) return false;
  __u32 sum = 0;
  if (before == after) {
    // The device will make the quoted datagram's sum that of nothing but its pseudo header, turned round.
    sum = (__u16)~before;
    if (!sum_packet(skb, ETH_HLEN, network, &sum)) return false;
  } else if (!sum_packet(skb, ETH_HLEN, quoted, &sum)) {
    return false;
  }
  struct {
    __u8 type, code;
    __u16 check;
    __u32 rest;
  } icmp = {w->is_v4 ? 3 : 1, w->is_v4 ? 3 : 4, 0, 0};
  sum = (__u32)bpf_csum_diff(0, 0, (__be32 *)&icmp, sizeof icmp, sum);
  if (!w->is_v4) {
    __u32 ends = pseudo(w, source, quoted + 8, IPPROTO_ICMPV6);
    sum = fold(sum) + fold(ends);
  }
  icmp.check = (__u16)~fold(sum);
  if (bpf_skb_adjust_room(skb, (__s32)room, BPF_ADJ_ROOM_MAC, 0)) return false;
  // Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
  return address_back(
             skb, w, source, (__u16)(room + quoted), w->is_v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6, w->is_v4 ? 0xc0 : 0, 0) &&
         !store(skb, ETH_HLEN + network, &icmp, sizeof icmp);
}

/// Answers a first packet that nobody takes, and gives the verdict on what has become of it.
static __always_inline int refuse(struct __sk_buff *skb, struct work *w) {
  __u32 zero = 0;
  const struct kalsae_lb_config *config = bpf_map_lookup_elem(&lb_config, &zero);
  if (!config) return TC_ACT_SHOT;
  bool is_tcp = w->key.transport == IPPROTO_TCP;
  const struct kalsae_address *source = w->is_v4 ? &config->error4 : &config->error6;
  // Never about a reset.
  if (is_tcp ? w->tcp.rst : is_zero(source)) return TC_ACT_SHOT;
  if (!take_budget(config)) return TC_ACT_SHOT;
  struct kalsae_address own = *source;
  const struct kalsae_place *place = place_of(&w->key.source);
  if (place) w->place = *place;
  if (is_tcp ? !write_reset(skb, w) : !write_unreachable(skb, w, &own)) {
    count(KALSAE_LB_FAILED);
    return TC_ACT_SHOT;
  }
  __u32 interface = skb->ifindex;
  // The compiler would choose between two pointers, which the verifier does not take.
  asm volatile("" : "+r"(interface));
  if (w->place.kind == KALSAE_PLACE_FRAME) interface = w->place.interface;
  return (int)bpf_redirect(interface, 0);
}

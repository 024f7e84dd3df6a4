#pragma once
// What is written into packets that are sent on.
#include "packet.h"

/// Writes the network-layer header: the addresses in `w->after` for those in `w->before`, and one hop less.
static __always_inline bool rewrite_network(struct context *ctx, struct work *w) {
  if (w->is_v4) {
    struct {
      __u8 time_to_live, protocol;
      __u16 check;
      __u32 source, destination;
    } fields = {w->time_to_live - 1, (__u8)w->key.transport, 0, w->after[3], w->after[7]};
    __u32 sum = (__u16)~w->check + (__u32)bpf_htons(0xfeff);
    sum += (__u32)(__u16)~w->before[3] + (__u16)~(w->before[3] >> 16);
    sum += (__u32)(__u16)~w->before[7] + (__u16)~(w->before[7] >> 16);
    sum += (fields.source & 0xffff) + (fields.source >> 16);
    sum += (fields.destination & 0xffff) + (fields.destination >> 16);
    fields.check = (__u16)~fold(sum);
    return !store(ctx, ETH_HLEN + 8, &fields, 12);
  }
  __u8 limit = w->time_to_live - 1;
  return !store(ctx, ETH_HLEN + 7, &limit, 1) && !store(ctx, ETH_HLEN + 8, w->after, 32);
}

/// Gives a packet its new addresses and ports, and one hop less. False where the kernel cannot: then it is lost.
static __always_inline bool rewrite(struct context *ctx, struct work *w) {
  __builtin_memcpy(w->before, &w->key.source, 32);
  __builtin_memcpy(w->after, &w->next.source, 32);
  if (w->fragment != LATER) {
    __u32 addresses = (__u32)bpf_csum_diff(w->before, 32, w->after, 32, 0);
    __u32 old = (__u32)w->key.source_port | (__u32)w->key.destination_port << 16;
    __u32 new = (__u32)w->next.source_port | (__u32)w->next.destination_port << 16;
    bool is_tcp = w->key.transport == IPPROTO_TCP;
    if (!mend(ctx, w->transport + (is_tcp ? 16 : 6), addresses, old, new, !is_tcp, !w->is_v4)) return false;
    if (store(ctx, w->transport, &new, 4)) return false;
  }
  return rewrite_network(ctx, w);
}

/// Takes one hop from a packet that is sent whole, and makes the header that is put before it.
static __always_inline bool prepare_direct(struct context *ctx, struct work *w, struct iphdr *outer) {
  __builtin_memcpy(w->before, &w->key.source, 32);
  __builtin_memcpy(w->after, &w->key.source, 32);
  if (!rewrite_network(ctx, w)) return false;
  *(__u8 *)outer = 0x45;
  outer->tos = w->head.ip.tos;
  outer->tot_len = bpf_htons((__u16)(w->length + sizeof *outer));
  // RFC 6864: an atomic packet needs no identification; RFC 2003: what must not be fragmented inside must not outside.
  bool is_atomic = w->head.ip.frag_off & bpf_htons(0x4000);
  outer->id = is_atomic ? 0 : (__u16)bpf_get_prandom_u32();
  outer->frag_off = is_atomic ? bpf_htons(0x4000) : 0;
  outer->ttl = 64;
  outer->protocol = IPPROTO_IPIP;
  outer->check = 0;
  outer->saddr = w->outer;
  outer->daddr = w->next.destination.word[3];
  const __u16 *word = (const __u16 *)outer;
  __u32 sum = 0;
#pragma unroll
  for (int i = 0; i < 10; i++) sum += word[i];
  outer->check = (__u16)~fold(sum);
  return true;
}

/// What new values do to a checksum.
static __always_inline __u16 mended(__u16 check, __u64 delta) {
  __u64 sum = (__u64)(__u16)~check + delta;
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (__u16)~fold((__u32)sum);
}

/// Writes what `explain` has found.
static __always_inline bool rewrite_error(struct context *ctx, struct work *w) {
  __u32 size = w->is_v4 ? 20 : 40, at = w->quoted + size;
  // The quoted packet: what its sender sent.
  __builtin_memcpy(w->before, &w->reply.destination, 16);
  __builtin_memcpy(w->before + 4, &w->reply.source, 16);
  __builtin_memcpy(w->after, &w->next.destination, 16);
  __builtin_memcpy(w->after + 4, &w->next.source, 16);
  __u32 addresses = (__u32)bpf_csum_diff(w->before, 32, w->after, 32, 0);
  __u32 old = (__u32)w->reply.destination_port | (__u32)w->reply.source_port << 16;
  __u32 new = (__u32)w->next.destination_port | (__u32)w->next.source_port << 16;
  __u32 ports = (__u32)bpf_csum_diff(&old, 4, &new, 4, 0);
  __u64 delta = ports;
  if (w->is_v4) {
    __u16 check = w->head.ip.check, now = mended(check, addresses);
    delta += (__u64)addresses + (__u16)~check + now;
    if (store(ctx, w->quoted + 10, &now, 2) || store(ctx, w->quoted + 12, &w->after[3], 4) ||
        store(ctx, w->quoted + 16, &w->after[7], 4))
      return false;
  } else {
    delta += addresses;
    if (store(ctx, w->quoted + 8, w->after, 32)) return false;
  }
  if (store(ctx, at, &new, 4)) return false;
  bool is_udp = w->reply.transport == IPPROTO_UDP;
  __u32 field = at + (is_udp ? 6 : 16);
  __u16 check;
  if (w->length + ETH_HLEN >= field + 2) {
    if (load(ctx, field, &check, 2)) return false;
    if (!is_udp || check) {
      __u16 now = mended(check, (__u64)addresses + ports);
      if (is_udp && !now) now = 0xffff;
      delta += (__u64)(__u16)~check + now;
      if (store(ctx, field, &now, 2)) return false;
    }
  }
  // The error itself.
  __builtin_memcpy(w->before, &w->key.source, 32);
  __builtin_memcpy(w->after, &w->back.source, 16);
  __builtin_memcpy(w->after + 4, &w->next.destination, 16);
  __u32 outer = (__u32)bpf_csum_diff(w->before, 32, w->after, 32, 0);
  if (!w->is_v4) delta += outer;
  if (load(ctx, w->transport + 2, &check, 2)) return false;
  check = mended(check, delta);
  if (store(ctx, w->transport + 2, &check, 2)) return false;
  return rewrite_network(ctx, w);
}

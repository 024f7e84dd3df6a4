#include "plain_octets.h"

_Static_assert(sizeof(struct kalsae_hop) == 128 && sizeof(struct kalsae_hop_state) == 20, "hops as Swift has them");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the machine's numbers are little-endian");

/// `PlainHop`.
enum { LINK = 1, IPIP = 2, GRE = 3, UDP_TUNNEL = 4 };
enum { HEADERS = sizeof((struct kalsae_hop *)0)->headers };

INLINE void store16(uint8_t *p, uint16_t value) { memcpy(p, &value, sizeof value); }
INLINE void store32(uint8_t *p, uint32_t value) { memcpy(p, &value, sizeof value); }
/// In network byte order.
INLINE void put16(uint8_t *p, uint16_t value) { store16(p, __builtin_bswap16(value)); }
INLINE void put32(uint8_t *p, uint32_t value) { store32(p, __builtin_bswap32(value)); }

/// The one's complement sum.
INLINE uint16_t add(uint16_t a, uint16_t b) {
  uint16_t sum;
  return __builtin_add_overflow(a, b, &sum) ? sum + 1 : sum;
}

/// A checksum after a change of what it covers (RFC 1624, equation 3).
INLINE uint16_t mend(uint16_t checksum, uint16_t delta) { return (uint16_t)~add((uint16_t)~checksum, delta); }

/// Mends the transport checksum. Of a partial one only the pseudo header is summed yet.
INLINE void mend_transport(uint8_t *p, int is_tcp, int partial, uint16_t address_delta, uint16_t delta) {
  if (unlikely(partial)) {
    p += is_tcp ? 16 : 6;
    store16(p, add(load16(p), address_delta));
  } else if (is_tcp) {
    store16(p + 16, mend(load16(p + 16), delta));
  } else {
    uint16_t old = load16(p + 6), new = mend(old, delta);
    // TUN-9: none stays none, and a computed 0 is written as 0xffff.
    if (old) store16(p + 6, new ? new : 0xffff);
  }
}

/// New addresses and ports, and one hop less.
INLINE void translate(uint8_t *p, const void *slot, const uint64_t *packet, const int is_ipv6) {
  const int partial = octet(packet + MARKS, 3) & 0x80;
  if (is_ipv6) {
    const struct kalsae_rewrite6 *rewrite = &((const struct kalsae_slot6 *)slot)->rewrite;
    memcpy(p + 8, rewrite->addresses, sizeof rewrite->addresses);
    store32(p + 40, rewrite->ports);
    mend_transport(p + 40, octet(packet + WORDS, 6) == TCP, partial, rewrite->address_delta, rewrite->delta);
    return;
  }
  const struct kalsae_rewrite4 *rewrite = &((const struct kalsae_slot4 *)slot)->rewrite;
  const uint32_t third = load32((const char *)(packet + WORDS) + 4);
  const uint16_t checksum = mend((uint16_t)(third >> 16), add(rewrite->address_delta, 0xfffe));
  store32(p + 8, ((third & 0xffff) - 1) | (uint32_t)checksum << 16);
  memcpy(p + 12, &rewrite->addresses, sizeof rewrite->addresses);
  store32(p + 20, rewrite->ports);
  mend_transport(p + 20, (uint8_t)(third >> 8) == TCP, partial, rewrite->address_delta, rewrite->delta);
}

/// Fills in what an outer IPv4 header, as the template has it, takes from the packet behind it (TUN-1, TUN-5).
INLINE void finish(
    uint8_t *p, const struct kalsae_hop *hop, struct kalsae_hop_state *states, size_t way, const uint64_t *packet,
    uint32_t length, const int is_ipv6) {
  const uint32_t carried = octet(packet + MARKS, 6) & hop->traffic_class_mask;
  uint32_t sum = hop->plain_sum + carried + length;
  put32(p, hop->plain_start + (carried << 16) + length);
  // Identification, flags and offset. An atomic packet needs no identification (RFC 6864).
  uint32_t second = 0x4000;
  if (is_ipv6 || octet(packet + WORDS, 2) & 0x40) {
    sum += 0x4000;
  } else {
    // One count for both families of inner packets: the pair of addresses is the same.
    const uint32_t identification = states[way & ~(size_t)1].identification++;
    sum += identification;
    second = identification << 16;
  }
  put32(p + 4, second);
  put16(p + 10, (uint16_t)~add((uint16_t)sum, (uint16_t)(sum >> 16)));
}

/// Whether a packet goes the general way that is its direction's first, or may have to.
INLINE int is_special(const struct kalsae_departure *d, const struct kalsae_direction *flow, size_t way) {
  const uint32_t count = load32(&flow->tally);
  // The first packet of a reply changes more than counts.
  if (!count && octet(&flow->tally, 6)) return 1;
  return d->is_careful && ((count & d->offload_mask) == d->offload_mask || d->hop_states[way].learned_mtu);
}

/// Sends on packets from place `first` on. What is known of a packet is read again where it is needed: it is near, and there
/// are not registers for all of it.
INLINE size_t send_on(struct kalsae_departure *d, size_t first, size_t end, const int is_ipv6) {
  const size_t slot_size = is_ipv6 ? sizeof(struct kalsae_slot6) : sizeof(struct kalsae_slot4);
  const size_t place = is_ipv6 ? offsetof(struct kalsae_slot6, flow) : offsetof(struct kalsae_slot4, flow);
  const uint32_t shortest = is_ipv6 ? 48 : 28;
  // Where packets need a second look that have as many before them.
  const uint32_t looked_at = d->is_careful ? UINT32_MAX : 0;
  uint64_t *const listed = d->columns + LISTED + d->start, *entry = listed + first, *const last = listed + end;
  int32_t leaving_port = d->is_overtaken ? -1 : d->leaving_port;
  uint16_t *leaving = d->leaving + d->leaving_count;
  for (; entry < last; entry++) {
    const size_t index = octet(entry, 0);
    // Negative: it has none.
    const size_t position = (size_t)((int64_t)*entry >> 8);
    if (position >= d->slot_count || index >= d->frame_count) break;
    char *slot = (char *)d->slots + position * slot_size;
    struct kalsae_direction *flow = (struct kalsae_direction *)(slot + place);
    const size_t way = flow->hop;
    if (flow->epoch != d->epoch || way >= d->hop_count) break;
    const struct kalsae_hop *hop = d->hops + way;
    const uint64_t *packet = d->columns + index;
    const uint32_t length = load16(packet + MARKS), offset = octet(packet + MARKS, 2);
    // No plain packet is shorter than its headers.
    if (length > hop->plain_mtu || length < shortest) break;
    if (unlikely(load32(&flow->tally) <= looked_at) && is_special(d, flow, way)) break;
    struct kalsae_frame *frame = d->frames + index;
    const uint32_t start = frame->start + offset, pushed = hop->length;
    if (start < HEADERS || offset + length > frame->length) break;

    uint8_t *p = frame->buffer + start;
    frame->start = start - pushed;
    frame->length = length + pushed;
    flow->last_seen = d->second;
    flow->octets += length;
    const int rewrites = octet(&flow->tally, 7);
    flow->tally++;
    if (is_ipv6) p[7] = octet(packet + WORDS, 7) - 1;
    if (rewrites) {
      translate(p, slot, packet, is_ipv6);
    } else if (!is_ipv6) {
      store32(p + 8, kalsae_count_down4(load32((const char *)(packet + WORDS) + 4)));
    }
    const uint8_t *headers = hop->headers + HEADERS;
    if (hop->plain == LINK) {
      // Nothing before the frame: that would often be another cache line.
      memcpy(p - 14, headers - 14, 8);
      memcpy(p - 8, headers - 8, 8);
    } else if (hop->plain == UDP_TUNNEL) {
      memcpy(p - 64, headers - 64, 64);
      finish(p - 50, hop, d->hop_states, way, packet, length, is_ipv6);
      put16(p - 30, 0xc000 | (load16((const char *)(packet + HASHES) + 5) & 0x3fff));
      put16(p - 26, (uint16_t)(length + 30));
    } else {
      memcpy(p - 48, headers - 48, 48);
      finish(p - (hop->plain == IPIP ? 20 : 24), hop, d->hop_states, way, packet, length, is_ipv6);
    }
    if (unlikely(hop->port != leaving_port || octet(packet + MARKS, 3) & 0x80)) {
      const int partial = octet(packet + MARKS, 3) & 0x80;
      if (!partial && d->may_open && !d->unlisted_count && leaving_port < 0) {
        d->leaving_port = leaving_port = hop->port;
      } else {
        // What comes behind it by the same port must not overtake it.
        if (hop->port == leaving_port) leaving_port = -1, d->is_overtaken = 1;
        listed[d->run + d->unlisted_count++] = *entry;
        continue;
      }
    }
    *leaving++ = octet(entry, 0);
  }
  d->leaving_count = (size_t)(leaving - d->leaving);
  return (size_t)(entry - listed);
}

/// Sends groups of packets, up to the first that are not all plain and alike.
INLINE size_t send_groups(struct kalsae_departure *d, size_t first, size_t end, const int is_ipv6) {
#if defined(__x86_64__)
  if (is_ipv6) return kalsae_plain_send6_fours(d, first, end);
  return (d->lanes == 8 ? kalsae_eights.send : kalsae_plain_send_fours)(d, first, end);
#else
  (void)d, (void)end, (void)is_ipv6;
  return first;
#endif
}

INLINE size_t send_all(struct kalsae_departure *d, size_t first, size_t end, const int is_ipv6) {
  size_t next = d->run = first;
  while (next < end) {
    // Some at a time where they are alike, and what stands in the way of that singly.
    size_t stop = end;
    if (d->lanes > 1 && !d->unlisted_count) {
      next = send_groups(d, next, end, is_ipv6);
      if (end - next > kalsae_group) stop = next + kalsae_group;
    }
    next = send_on(d, next, stop, is_ipv6);
    if (next < stop) break;
  }
  return next;
}

size_t kalsae_plain_send4(struct kalsae_departure *d, size_t first, size_t end) { return send_all(d, first, end, 0); }

size_t kalsae_plain_send6(struct kalsae_departure *d, size_t first, size_t end) { return send_all(d, first, end, 1); }

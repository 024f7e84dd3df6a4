#include "plain_fours.h"

#if defined(__x86_64__)
enum {
  FLOW4 = offsetof(struct kalsae_slot4, flow),
  FLOW6 = offsetof(struct kalsae_slot6, flow),
  REWRITE4 = offsetof(struct kalsae_slot4, rewrite),
  REWRITE6 = offsetof(struct kalsae_slot6, rewrite),
  /// Where a hop's headers end.
  HEADERS = offsetof(struct kalsae_hop, headers) + sizeof((struct kalsae_hop *)0)->headers,
  IPV4 = 20,
  IPV6 = 40,
};

/// Words with their octets in the other order.
FINLINE eight reverse(eight a) {
  const __m256i places = _mm256_set_epi32(
      0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203, 0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203);
  return (eight)_mm256_shuffle_epi8((__m256i)a, places);
}

/// The one's complement sum of 16-bit numbers.
FINLINE eight add8(eight a, eight b) {
  const eight sum = a + b;
  return (sum & each(0xffff)) + (sum >> 16);
}

FINLINE eight invert8(eight a) { return a ^ each(0xffff); }

/// What outer headers have of their own, in network byte order: the first word of the IPv4 header (the second is that of
/// an atomic packet); its checksum and the UDP source port; the UDP length.
struct wrapping8 {
  eight first, checksum_and_port, length;
};

/// `carried`: what of the traffic class goes outside. `hash`: the upper halves of flows' hashes.
FINLINE struct wrapping8 wrapping_of(struct words8 hop, eight carried, eight length, eight hash) {
  const eight sum = (hop.word[2] & each(0xffff)) + length + carried + each(0x4000);
  const eight checksum = invert8(add8((sum & each(0xffff)) + (sum >> 16), each(0)));
  const eight port = (hash >> 8 & each(0x3fff)) | each(0xc000);
  return (struct wrapping8){
      reverse(hop.word[3] + length + (carried << 16)), reverse(checksum << 16 | port), reverse((length + each(30)) << 16)};
}

/// Where those octets are in the 64 before the packet, or before its inner Ethernet header where there is one, by
/// `PlainHop`: their places among the 16, or that the octet is the template's.
#define FIRST(at) [at] = 0, [at + 1] = 1, [at + 2] = 2, [at + 3] = 3, [at + 4] = 4, [at + 5] = 5, [at + 6] = 6, [at + 7] = 7
#define IP_ONLY(at) {[0 ... 63] = 0x80, FIRST(at), [at + 10] = 8, [at + 11] = 9}
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Winitializer-overrides"
static const _Alignas(32) uint8_t own_octets[5][64] = {
    [2] = IP_ONLY(44),
    [3] = IP_ONLY(40),
    [4] = {[0 ... 63] = 0x80, FIRST(14), [24] = 8, [25] = 9, [34] = 10, [35] = 11, [38] = 12, [39] = 13},
};
#pragma clang diagnostic pop

/// What packets are compared with, in each lane, and where things are: for a run.
struct run4 {
  uint64_t *columns, *listed;
  struct kalsae_frame *frames;
  eight last_hop, epoch;
  quad hops, seen;
  size_t frame_count;
};

/// The upper or lower half of `a` behind the lower half of `b`.
FINLINE quad behind(quad b, quad a, const int upper) {
  return upper ? __builtin_shufflevector(b, a, 0, 1, 6, 7) : __builtin_shufflevector(b, a, 0, 1, 4, 5);
}

/// 32 octets of a template, with the packet's own where `from` says so.
FINLINE quad wrapped(const char *template, quad own, quad from) {
  return choose(from, load4(template), (quad)_mm256_shuffle_epi8((__m256i)own, (__m256i)from));
}

/// Counts four packets, and writes their headers: in as few pieces as can be. `third`: the third words of IPv4 headers.
FINLINE void put4(
    const uint64_t *columns, quad first, quad second, quad third, quad length, quad seen, const int is_ipv6,
    const int kind) {
  const quad one = four(1), none = four(0);
  // Of packets 0 and 2, and of 1 and 3.
  const quad counted[2] = {
      __builtin_shufflevector(one, length, 0, 4, 2, 6), __builtin_shufflevector(one, length, 1, 5, 3, 7)};
  const quad low = third << 48, high = third >> 16;
  const quad thirds[2] = {__builtin_shufflevector(low, high, 0, 4, 2, 6), __builtin_shufflevector(low, high, 1, 5, 3, 7)};
  const quad outers[2] = {
      __builtin_shufflevector(first, second, 0, 4, 2, 6), __builtin_shufflevector(first, second, 1, 5, 3, 7)};
  const quad before = load4(own_octets[kind]), behind_it = load4(own_octets[kind] + 32);
  const quad kept = (quad){0, 0xffff000000000000, 0x0000ffffffffffff, 0xffffffffffff0000};
#pragma clang loop unroll(full)
  for (int i = 0; i < 4; i++) {
    // `last_seen` is the second of eight words; tally and octets are the last four. Not together with other flows': it may
    // be the same one.
    char *flow = (char *)columns[SLOTS + i] + (is_ipv6 ? FLOW6 : FLOW4);
    const quad state = (quad)_mm256_blend_epi32((__m256i)load4(flow), (__m256i)seen, 2);
    store4(flow, state + behind(none, counted[i & 1], i / 2));
    char *p = (char *)columns[PLACES + i];
    const char *headers = (const char *)columns[HOPS + i] + HEADERS;
    // One hop less is one less in the highest octet.
    const uint64_t begins = is_ipv6 ? columns[WORDS + i] - ((uint64_t)1 << 56) : 0;
    if (kind == 1 && is_ipv6) {
      memcpy(p - 14, headers - 14, 8);
      memcpy(p - 8, headers - 8, 8);
      memcpy(p, &begins, sizeof begins);
      continue;
    }
    if (kind == 1) {
      const quad link = (quad)_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(headers - 14)));
      store4(p - 14, choose(kept, load4(p - 14), behind(link, thirds[i & 1], i / 2)));
      continue;
    }
    const quad own = i / 2 ? __builtin_shufflevector(outers[i & 1], none, 2, 3, 2, 3)
                           : __builtin_shufflevector(outers[i & 1], none, 0, 1, 0, 1);
    if (kind == 4) {
      store4(p - 64, wrapped(headers - 64, own, before));
    } else {
      memcpy(p - 48, headers - 48, 16);
    }
    store4(p - 32, wrapped(headers - 32, own, behind_it));
    if (is_ipv6) {
      memcpy(p, &begins, sizeof begins);
    } else {
      const uint32_t word = (uint32_t)third[i];
      memcpy(p + 8, &word, 4);
    }
  }
}

/// What the translation of packets 0 and 2, 1 and 3, 4 and 6, 5 and 7 writes: of IPv4 the third word of the header, addresses
/// and ports.
struct translation8 {
  quad rows[4];
};

/// Mends the transport checksums of eight packets by what is added to what they cover; of IPv6 and of IPv4 headers of 20
/// octets.
FINLINE void mend8(const uint64_t *columns, eight delta, eight tcp, const int is_ipv6) {
  // Four octets of which the last two are the checksum.
  uint64_t places[8], *at = places;
  for (int i = 0; i < 2; i++) {
    const quad further = woven(tcp & each(10), each(0), i);
    store4(places + 4 * i, load4(columns + PLACES + 4 * i) + further + four((is_ipv6 ? IPV6 : IPV4) + 4));
  }
  __asm__("" : "+r"(at) : : "memory");
  eight word;
  for (int i = 0; i < 8; i++) word[i] = load32((const void *)at[packet_in[i]]);
  word = settled8(word);
  const eight old = word >> 16;
  eight new = invert8(add8(invert8(old), delta));
  // TUN-9: none stays none, and a computed 0 is written as 0xffff.
  new |= same8(new, each(0)) & each(0xffff) & ~tcp;
  new &= ~same8(old, each(0)) | tcp;
  word = settled8((word & each(0xffff)) | new << 16);
  for (int i = 0; i < 8; i++) {
    const uint32_t mended = word[i];
    memcpy((void *)at[packet_in[i]], &mended, sizeof mended);
  }
}

/// What the translation of eight packets is, other than of those that are `kept` as they are; what it adds to transport
/// checksums. Takes the third words of IPv4 headers, and gives them back with one hop less.
FINLINE eight translation_of(
    struct translation8 *t, const uint64_t *columns, eight kept, eight *third, const int is_ipv6) {
  const uint64_t *slots = apart(columns + SLOTS);
  if (is_ipv6) {
    eight change;
    for (int i = 0; i < 8; i++) change[i] = load32((const char *)slots[packet_in[i]] + REWRITE6 + 36);
    return (change & ~kept) >> 16;
  }
  for (int i = 0; i < 4; i++) {
    const int one = packet_in[i];
    t->rows[i] = two_at(slots[one] + REWRITE4, slots[one + 2] + REWRITE4);
  }
  const __m256i even = _mm256_unpackhi_epi32((__m256i)t->rows[0], (__m256i)t->rows[1]);
  const __m256i odd = _mm256_unpackhi_epi32((__m256i)t->rows[2], (__m256i)t->rows[3]);
  const eight change = (eight)_mm256_unpackhi_epi64(even, odd) & ~kept;
  // One hop less: 0xfffe, which is -1.
  const eight sum = invert8(add8(invert8(*third >> 16), add8(change & each(0xffff), each(0xfffe))));
  *third = ((*third & each(0xffff)) - each(1)) | sum << 16;
  // Of each packet's row the third word, and behind it addresses and ports: what the row has last goes first, and gives way.
  const __m256i thirds[4] = {
      (__m256i)*third, _mm256_srli_si256((__m256i)*third, 4), _mm256_srli_si256((__m256i)*third, 8),
      _mm256_srli_si256((__m256i)*third, 12)};
  for (int i = 0; i < 4; i++) {
    t->rows[i] = (quad)_mm256_blend_epi32(_mm256_shuffle_epi32((__m256i)t->rows[i], 0x93), thirds[i], 0x11);
  }
  return change >> 16;
}

/// Writes new addresses and ports: of those packets that have a bit.
FINLINE void translate8(const uint64_t *columns, const struct translation8 *t, unsigned rewrites, const int is_ipv6) {
  const uint64_t *places = apart(columns + PLACES);
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) {
    if (!(rewrites >> i & 1)) continue;
    char *p = (char *)places[i] + 8;
    if (is_ipv6) {
      memcpy(p, (const char *)columns[SLOTS + i] + REWRITE6, 36);
    } else {
      // Where `packet_in` has them.
      const __m256i row = (__m256i)t->rows[(i & 1) + i / 4 * 2];
      _mm_storeu_si128((__m128i *)p, i & 2 ? _mm256_extracti128_si256(row, 1) : _mm256_castsi256_si128(row));
    }
  }
}

/// `kalsae_count_down4`.
FINLINE eight counted_down(eight third) {
  return third + each(0xffff) + (same8(third & each(0xfffe0000), each(0xfffe0000)) & each(0x10000));
}

/// What is known of eight packets that go out: lower halves of marks, the packets' octets, upper halves of tallies; the first
/// two words of `kalsae_hop` from `port` on, and all four.
struct group8 {
  eight mark, length, upper, leads, kinds;
  struct words8 hop;
};

/// Says of four frames where they begin in their buffers, and how long they are.
FINLINE void set_spans(struct kalsae_frame *frames, quad spans) {
  const __m128 lower = (__m128)_mm256_castsi256_si128((__m256i)spans);
  const __m128 upper = (__m128)_mm256_extracti128_si256((__m256i)spans, 1);
  _mm_storel_pi((__m64 *)&frames[0].start, lower);
  _mm_storeh_pi((__m64 *)&frames[1].start, lower);
  _mm_storel_pi((__m64 *)&frames[2].start, upper);
  _mm_storeh_pi((__m64 *)&frames[3].start, upper);
}

/// Sends eight packets on that nothing stands in the way of: `rewrites`: some of them are translated.
FINLINE void finish8(
    const struct run4 *run, const struct group8 *g, size_t base, const int is_ipv6, const int kind, const int rewrites) {
  const uint64_t *columns = run->columns + base;
  const eight pushed = g->leads >> 16;
  const eight start = halves_at(columns + SPANS, 0) + (g->mark >> 16 & each(0xff)) - pushed;
  const eight reach = g->length + pushed;
  set_spans(run->frames + base, woven(start, reach, 0));
  set_spans(run->frames + base + 4, woven(start, reach, 1));
  const eight next = halves_at(columns + WORDS, 1);
  eight third = next, delta = each(0);
  struct translation8 translation;
  unsigned bits = 0;
  if (rewrites) {
    const eight kept = same8(g->upper >> 24, each(0));
    bits = highest8(~kept);
    delta = translation_of(&translation, columns, kept, &third, is_ipv6);
  } else if (!is_ipv6) {
    third = counted_down(next);
  }
  struct wrapping8 wrapping = {0};
  if (kind > 1) {
    const eight carried = halves_at(columns + MARKS, 1) >> 16 & g->kinds >> 8 & each(0xff);
    wrapping = wrapping_of(g->hop, carried, g->length, halves_at(columns + HASHES, 1));
  }
#pragma clang loop unroll(full)
  for (int half = 0; half < 2; half++) {
    const uint64_t *part = columns + 4 * half;
    const quad length = woven(g->length, each(0), half);
    // The second word: "don't fragment".
    const quad outer = woven(wrapping.first, each(0x400000), half);
    const quad rest = woven(wrapping.checksum_and_port, wrapping.length, half);
    put4(part, outer, rest, woven(third, each(0), half), length, run->seen, is_ipv6, kind);
  }
  if (rewrites) {
    // (All of them: without a look at each.)
    if (bits == 0xff) {
      translate8(columns, &translation, 0xff, is_ipv6);
    } else {
      translate8(columns, &translation, bits, is_ipv6);
    }
    const int shift = is_ipv6 ? 16 : 8;
    mend8(columns, delta, same8(next & each((uint32_t)0xff << shift), each((uint32_t)TCP << shift)), is_ipv6);
  }
}

/// Sends on the eight packets listed from place `first` on. False where they are not all alike, or something stands in
/// their way: then nothing has been touched.
FINLINE int send_eight(struct kalsae_departure *d, const struct run4 *run, size_t first, const int is_ipv6) {
  const ptrdiff_t way_at = (is_ipv6 ? FLOW6 : FLOW4) + (ptrdiff_t)offsetof(struct kalsae_direction, epoch);
  const uint64_t *listed = run->listed + first;
  const size_t base = octet(listed, 0);
  if (unlikely(base + 8 > run->frame_count)) return 0;
  const quad order = four(base) + (quad){0, 1, 2, 3};
  // They are in order, and each has a flow.
  quad unlike = (load4(listed) ^ order) | (load4(listed + 4) ^ (order + four(4)));
  if (unlikely(any(unlike, four((uint64_t)1 << 63 | 0xff)))) return 0;
  const uint64_t *columns = run->columns + base;
  const struct words8 flow = words8_at(columns + SLOTS, way_at);
  // The tally's halves: the number of packets, and what the flow is.
  const eight way = flow.word[1], lower = flow.word[2], upper = flow.word[3];
  // Where `find` has said: so the rows of slots and of hops are waited for together.
  // Nothing of a hop is read before it is sure that there is one.
  unlike = ((woven(way, each(0), 0) << 7) + run->hops) ^ load4(columns + HOPS);
  unlike |= ((woven(way, each(0), 1) << 7) + run->hops) ^ load4(columns + HOPS + 4);
  const eight beyond = way ^ (eight)_mm256_min_epu32((__m256i)way, (__m256i)run->last_hop);
  if (unlikely(any(unlike, unlike) || any8(beyond, beyond))) return 0;
  // From the lowest bit on: port, length of headers; kind, mask, MTU.
  const struct words8 hop = words8_at(columns + HOPS, offsetof(struct kalsae_hop, port));
  const eight leads = hop.word[0], kinds = hop.word[1];
  const eight mark = halves_at(columns + MARKS, 0), length = mark & each(0xffff);
  const uint64_t lead = load64((const char *)columns[HOPS] + offsetof(struct kalsae_hop, port));
  const unsigned kind = lead >> 32 & 0xff, port = lead & 0xffff;
  // The first packet of the answers is special, and so are those with a partial checksum.
  eight bad = same8(lower, each(0)) & ~same8(upper & each(0xff0000), each(0));
  bad |= ((kinds >> 16) - length) | (length - each(is_ipv6 ? IPV6 + 8 : IPV4 + 8)) | mark;
  eight differs = flow.word[0] ^ run->epoch;
  differs |= (leads ^ each((uint32_t)lead)) & each(0xffff);
  differs |= (kinds ^ each((uint32_t)(lead >> 32))) & each(0xff);
  // An atomic packet needs no identification (RFC 6864).
  if (kind > 1 && !is_ipv6) differs |= ~halves_at(columns + WORDS, 0) & each(0x400000);
  if (unlikely(d->is_careful)) {
    // Of the same flow there can be more.
    const eight left = each(d->offload_mask) - (lower & each(d->offload_mask));
    bad |= ~same8(left, (eight)_mm256_max_epu32((__m256i)left, (__m256i)each(8)));
    for (int i = 0; i < 8; i++) if (d->hop_states[way[i]].learned_mtu) return 0;
  }
  if (unlikely(is_any_high(bad) || any8(differs, differs) || kind < 1 || kind > 4)) return 0;
  if (unlikely(d->leaving_port != (int32_t)port)) {
    if (d->leaving_port >= 0 || !d->may_open) return 0;
    d->leaving_port = (int32_t)port;
  }
  const __m128i indices = _mm_add_epi16(_mm_set1_epi16((short)base), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7));
  _mm_storeu_si128((__m128i *)(d->leaving + d->leaving_count), indices);
  d->leaving_count += 8;

  const struct group8 group = {
      .mark = mark, .length = length, .upper = upper, .leads = leads, .kinds = kinds, .hop = hop};
  const int rewrites = any8(upper, each((uint32_t)0xff << 24));
  switch (kind << 1 | (unsigned)rewrites) {
  case 2: finish8(run, &group, base, is_ipv6, 1, 0); break;
  case 3: finish8(run, &group, base, is_ipv6, 1, 1); break;
  case 4: finish8(run, &group, base, is_ipv6, 2, 0); break;
  case 5: finish8(run, &group, base, is_ipv6, 2, 1); break;
  case 6: finish8(run, &group, base, is_ipv6, 3, 0); break;
  case 7: finish8(run, &group, base, is_ipv6, 3, 1); break;
  case 8: finish8(run, &group, base, is_ipv6, 4, 0); break;
  default: finish8(run, &group, base, is_ipv6, 4, 1); break;
  }
  return 1;
}

FINLINE size_t send_run(struct kalsae_departure *d, size_t first, size_t end, const int is_ipv6) {
  if (!d->hop_count) return first;
  const struct run4 run = {
      .columns = d->columns,
      .listed = d->columns + LISTED + d->start,
      .frames = d->frames,
      .last_hop = each((uint32_t)d->hop_count - 1),
      .hops = four((uint64_t)d->hops),
      .epoch = each(d->epoch),
      .frame_count = d->frame_count,
      .seen = (quad)_mm256_set1_epi32((int)d->second),
  };
  const size_t begin = first;
  while (first + 8 <= end && send_eight(d, &run, first, is_ipv6)) first += 8;
  d->grouped_count += first - begin;
  return first;
}

FOURS size_t kalsae_plain_send_fours(struct kalsae_departure *d, size_t first, size_t end) {
  return send_run(d, first, end, 0);
}

FOURS size_t kalsae_plain_send6_fours(struct kalsae_departure *d, size_t first, size_t end) {
  return send_run(d, first, end, 1);
}
#endif

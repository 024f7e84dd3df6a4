#include "plain_fours.h"

#if defined(__x86_64__)
enum {
  FLOW4 = offsetof(struct kalsae_slot4, flow),
  FLOW6 = offsetof(struct kalsae_slot6, flow),
  REWRITE4 = offsetof(struct kalsae_slot4, rewrite),
  REWRITE6 = offsetof(struct kalsae_slot6, rewrite),
  /// Where a hop's headers end.
  HEADERS = offsetof(struct kalsae_hop, headers) + sizeof((struct kalsae_hop *)0)->headers,
  TCP = 6,
  IPV4 = 20,
  IPV6 = 40,
};

/// Words with their octets in the other order.
FINLINE quad reverse(quad a) {
  const __m256i places = _mm256_set_epi32(
      0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607, 0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607);
  return (quad)_mm256_shuffle_epi8((__m256i)a, places);
}

/// The one's complement sum of 16-bit numbers.
FINLINE quad add4(quad a, quad b) {
  const quad sum = a + b;
  return (sum & four(0xffff)) + (sum >> 16);
}

FINLINE quad invert4(quad a) { return a ^ four(0xffff); }

/// What outer headers have of their own, in network byte order: eight octets of the IPv4 header from its first on; its
/// checksum, UDP source port and length.
FINLINE void wrap4(quad *first, quad *second, quad start, quad sum, quad carried, quad length, quad hash) {
  const quad total = (start + length + (carried << 16)) << 32 | four(0x4000);
  const quad checksum = invert4(fold4(sum + length + carried + four(0x4000)) & four(0xffff));
  const quad port = (hash >> 40 & four(0x3fff)) | four(0xc000);
  *first = reverse(total);
  *second = reverse(checksum << 48 | port << 32 | (length + four(30)) << 16);
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
  quad last_slot, last_hop, hops, epoch, seen;
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

/// What the translation of four packets does to their transport checksums, and where those are.
struct translation4 {
  uint64_t checksums[4], places[4];
};

/// Finds out what the translation of four packets does to their checksums, other than of those that are `kept` as they are.
/// Returns the third words of IPv4 headers, with one hop less; of IPv6 nothing.
FINLINE quad translated(struct translation4 *t, const uint64_t *columns, quad word, quad kept, const int is_ipv6) {
  const uint64_t header = is_ipv6 ? IPV6 : IPV4;
  const quad change = words_of(columns + SLOTS, is_ipv6 ? REWRITE6 + 32 : REWRITE4 + 8) & ~kept;
  const quad tcp = same(word >> (is_ipv6 ? 48 : 40) & four(0xff), four(TCP));
  // Eight octets of which the last two are the checksum: those are there.
  quad old;
  for (int i = 0; i < 4; i++) {
    const int is_tcp = octet(columns + WORDS + i, is_ipv6 ? 6 : 5) == TCP;
    old[i] = load64((const uint8_t *)columns[PLACES + i] + header + (is_tcp ? 10 : 0));
  }
  old >>= 48;
  quad new = invert4(add4(invert4(old), change >> 48));
  // TUN-9: none stays none, and a computed 0 is written as 0xffff.
  new |= same(new, four(0)) & four(0xffff) & ~tcp;
  new &= ~same(old, four(0)) | tcp;
  store4(t->checksums, new);
  store4(t->places, load4(columns + PLACES) + four(header + 6) + (tcp & four(10)));
  if (is_ipv6) return word;
  // One hop less: 0xfffe, which is -1.
  const quad third = word >> 32;
  const quad sum = invert4(add4(invert4(third >> 16), add4(change >> 32 & four(0xffff), four(0xfffe))));
  return ((third & four(0xffff)) - four(1)) | sum << 16;
}

/// Writes translations: of those packets that have a bit.
FINLINE void translate4(
    const uint64_t *columns, const struct translation4 *t, unsigned rewrites, const int is_ipv6) {
  for (int i = 0; i < 4; i++) {
    if (!(rewrites >> i & 1)) continue;
    char *p = (char *)columns[PLACES + i];
    const char *slot = (const char *)columns[SLOTS + i];
    if (is_ipv6) {
      memcpy(p + 8, slot + REWRITE6, 36);
    } else {
      memcpy(p + 12, slot + REWRITE4, 12);
    }
    memcpy((char *)t->places[i], t->checksums + i, 2);
  }
}

/// `kalsae_count_down4`.
FINLINE quad counted_down(quad third) {
  const quad wraps = same(third & four(0xfffe0000), four(0xfffe0000));
  return third + four(0xffff) + (wraps & four(0x10000));
}

/// Sends on the four packets listed from place `first` on. False where they are not all alike, or something stands in
/// their way: then nothing has been touched.
FINLINE int send_four(struct kalsae_departure *d, const struct run4 *run, size_t first, const int is_ipv6) {
  const ptrdiff_t way_at = (is_ipv6 ? FLOW6 : FLOW4) + (ptrdiff_t)offsetof(struct kalsae_direction, epoch);
  const uint64_t *listed = run->listed + first;
  const quad entry = load4(listed), order = {0, 1, 2, 3};
  const size_t base = octet(listed, 0);
  // Lanes with the highest bit are not plain: small numbers that are less than they should be have it. What differs
  // from what is expected is another word.
  quad bad = entry | (run->last_slot - (entry >> 8));
  quad differs = (entry ^ (four(base) + order)) & four(0xff);
  const uint64_t *columns = run->columns + base;
  if (unlikely(base + 4 > run->frame_count || highest(bad) || any(differs, differs))) return 0;
  quad direction, tally, leads, rest;
  pairs_at(columns + SLOTS, way_at, &direction, &tally);
  const quad way = direction >> 32, hop = (way << 7) + run->hops;
  // Where `find` has said: so the rows of slots and of hops are waited for together.
  // Nothing of a hop is read before it is sure that there is one.
  bad = (run->last_hop - way) | ~same(hop, load4(columns + HOPS));
  if (unlikely(highest(bad))) return 0;
  pairs_at(columns + HOPS, offsetof(struct kalsae_hop, port), &leads, &rest);
  // From the lowest bit on: port, length of headers, kind, mask, MTU.
  const quad mark = load4(columns + MARKS), word = load4(columns + WORDS), length = mark & four(0xffff);
  const uint64_t lead = load64((const char *)columns[HOPS] + offsetof(struct kalsae_hop, port));
  const unsigned kind = lead >> 32 & 0xff, port = lead & 0xffff;
  // The first packet of the answers is special, and so are those with a partial checksum.
  const quad is_first = same(low(tally), four(0)) & ~same(tally & four((uint64_t)0xff << 48), four(0));
  bad = ((leads >> 48) - length) | (length - four(is_ipv6 ? IPV6 + 8 : IPV4 + 8)) | is_first | mark << 32;
  differs = low(direction ^ run->epoch) | ((leads ^ four(lead)) & four((uint64_t)0xff << 32 | 0xffff));
  // An atomic packet needs no identification (RFC 6864).
  if (kind > 1 && !is_ipv6) bad |= same(word & four(0x400000), four(0));
  if (unlikely(d->is_careful)) {
    // Of the same flow there can be more.
    bad |= four(d->offload_mask) - (tally & four(d->offload_mask)) - four(4);
    for (int i = 0; i < 4; i++) if (d->hop_states[way[i]].learned_mtu) return 0;
  }
  if (highest(bad) || any(differs, differs) || kind < 1 || kind > 4) return 0;
  if (unlikely(d->leaving_port != (int32_t)port)) {
    if (d->leaving_port >= 0 || !d->may_open) return 0;
    d->leaving_port = (int32_t)port;
  }
  const uint64_t indices = base * 0x0001000100010001 + 0x0003000200010000;
  memcpy(d->leaving + d->leaving_count, &indices, sizeof indices);
  d->leaving_count += 4;

  const quad pushed = leads >> 16 & four(0xffff), old = load4(columns + SPANS);
  const quad span = low(old + (mark >> 16 & four(0xff)) - pushed) | (length + pushed) << 32;
  if (any(old ^ span, four(UINT64_MAX))) {
    for (int i = 0; i < 4; i++) {
      const uint64_t word = span[i];
      memcpy(&run->frames[base + (size_t)i].start, &word, sizeof word);
    }
  }
  const quad kept = same(tally >> 56, four(0));
  const unsigned rewrites = highest(kept) ^ 0xf;
  struct translation4 translation;
  quad third = word;
  if (rewrites) {
    third = translated(&translation, columns, word, kept, is_ipv6);
  } else if (!is_ipv6) {
    third = counted_down(word >> 32);
  }
  quad outer = third, outer_rest = third;
  if (kind > 1) {
    const quad carried = mark >> 48 & leads >> 40 & four(0xff);
    wrap4(&outer, &outer_rest, rest >> 32, rest & four(0xffff), carried, length, load4(columns + HASHES));
  }
  switch (kind) {
  case 1: put4(columns, outer, outer_rest, third, length, run->seen, is_ipv6, 1); break;
  case 2: put4(columns, outer, outer_rest, third, length, run->seen, is_ipv6, 2); break;
  case 3: put4(columns, outer, outer_rest, third, length, run->seen, is_ipv6, 3); break;
  default: put4(columns, outer, outer_rest, third, length, run->seen, is_ipv6, 4); break;
  }
  // (All of them: without a look at each.)
  if (rewrites == 0xf) {
    translate4(columns, &translation, 0xf, is_ipv6);
  } else if (rewrites) {
    translate4(columns, &translation, rewrites, is_ipv6);
  }
  return 1;
}

FINLINE size_t send_run(struct kalsae_departure *d, size_t first, size_t end, const int is_ipv6) {
  const struct run4 run = {
      .columns = d->columns,
      .listed = d->columns + LISTED + d->start,
      .frames = d->frames,
      .last_slot = four(d->slot_count - 1),
      .last_hop = four(d->hop_count - 1),
      .hops = four((uint64_t)d->hops),
      .epoch = four(d->epoch),
      .frame_count = d->frame_count,
      .seen = (quad)_mm256_set1_epi32((int)d->second),
  };
  const size_t begin = first;
  while (first + 4 <= end && send_four(d, &run, first, is_ipv6)) first += 4;
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

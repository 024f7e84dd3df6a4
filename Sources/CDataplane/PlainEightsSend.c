#include "plain_eights.h"

#if defined(__x86_64__)
#include "plain_octets.h"

/// Where a slot has what follows its key: connection and last seen, epoch and hop, tally, octets; new addresses; new ports
/// and what that does to checksums.
enum {
  FLOW = offsetof(struct kalsae_slot4, flow),
  WAY = FLOW + offsetof(struct kalsae_direction, epoch),
  REWRITE = offsetof(struct kalsae_slot4, rewrite),
};
_Static_assert(
    offsetof(struct kalsae_direction, last_seen) == 4 && offsetof(struct kalsae_direction, epoch) == 8 &&
        offsetof(struct kalsae_direction, tally) == 16 && offsetof(struct kalsae_direction, octets) == 24,
    "counted together");
_Static_assert(offsetof(struct kalsae_hop, plain_sum) == offsetof(struct kalsae_hop, port) + 8, "read together");
/// Where a hop's headers end.
enum { HEADERS = offsetof(struct kalsae_hop, headers) + sizeof((struct kalsae_hop *)0)->headers };

/// Eight packets on their way out: what is written for each.
struct __attribute__((aligned(64))) leaving {
  /// Packets and octets: what is counted. Here and below those of packets 0, 2, 4, 6 come first.
  uint64_t counted[8][2];
  /// The third word of the IPv4 header, six octets further on.
  uint64_t third[8][2];
  /// What outer headers have of their own: see `wrap`.
  uint64_t outer[8][2];
  /// From where on the columns are theirs.
  const uint64_t *columns;
  /// `PlainHop`.
  unsigned kind;
};

/// The place of what packet i has in a list of pairs.
#define PAIR(i) ((i) / 2 + ((i) & 1) * 4)

VINLINE void store_pairs(void *p, __m512i first, __m512i second) {
  store8(p, _mm512_unpacklo_epi64(first, second));
  store8((char *)p + 64, _mm512_unpackhi_epi64(first, second));
}

/// The one's complement sum of 16-bit numbers.
VINLINE __m512i add(__m512i a, __m512i b) {
  const __m512i sum = _mm512_add_epi64(a, b);
  return _mm512_add_epi64(_mm512_and_si512(sum, all(0xffff)), _mm512_srli_epi64(sum, 16));
}

VINLINE __m512i invert(__m512i a) { return _mm512_xor_si512(a, all(0xffff)); }

/// Notes third words as they are to be.
VINLINE void note_third(struct leaving *l, __m512i third) {
  store_pairs(l->third, _mm512_slli_epi64(third, 48), _mm512_srli_epi64(third, 16));
}

/// `kalsae_count_down4`.
VINLINE __m512i count_down(__m512i third) {
  const __mmask8 wraps = _mm512_cmpge_epu64_mask(third, all(0xfffe0000));
  return _mm512_add_epi64(third, _mm512_mask_mov_epi64(all(0xffff), wraps, all(0x1ffff)));
}

/// Translates some of eight packets: new addresses and ports, and what that does to checksums.
VINLINE void translate(struct leaving *l, __mmask8 rewrites, __m512i slot, __m512i packet, __m512i word) {
  const __m512i none = _mm512_setzero_si512();
  const __m512i addresses = _mm512_mask_i64gather_epi64(none, rewrites, slot, (const void *)(intptr_t)REWRITE, 1);
  const __m512i change = _mm512_mask_i64gather_epi64(none, rewrites, slot, (const void *)(intptr_t)(REWRITE + 8), 1);
  const __m512i third = high_half(word);
  // One hop less: 0xfffe, which is -1.
  const __m512i header = add(_mm512_and_si512(high_half(change), all(0xffff)), all(0xfffe));
  const __m512i mended = invert(add(invert(_mm512_srli_epi64(third, 16)), header));
  const __m512i hop_less = _mm512_sub_epi64(_mm512_and_si512(third, all(0xffff)), all(1));
  note_third(l, _mm512_or_si512(hop_less, _mm512_slli_epi64(mended, 16)));
  const __mmask8 tcp = _mm512_cmpeq_epi64_mask(_mm512_and_si512(third, all(0xff00)), all(TCP << 8));
  const __m512i place = _mm512_add_epi64(packet, _mm512_mask_mov_epi64(all(26), tcp, all(36)));
  // Eight octets of which the last two are the checksum: those are there.
  const __m512i last = _mm512_mask_i64gather_epi64(none, rewrites, place, (const void *)(intptr_t)-6, 1);
  const __m512i old = _mm512_srli_epi64(last, 48);
  __m512i new = invert(add(invert(old), _mm512_srli_epi64(change, 48)));
  // TUN-9: none stays none, and a computed 0 is written as 0xffff.
  new = _mm512_mask_mov_epi64(new, ~tcp & _mm512_cmpeq_epi64_mask(new, none), all(0xffff));
  new = _mm512_mask_mov_epi64(new, ~tcp & _mm512_cmpeq_epi64_mask(old, none), none);
  // The two octets before the checksum stay as they are.
  const __m512i sum = _mm512_or_si512(_mm512_slli_epi64(new, 16), _mm512_and_si512(_mm512_srli_epi64(last, 32), all(0xffff)));
  _mm512_mask_i64scatter_epi64((void *)12, rewrites, packet, addresses, 1);
  _mm512_mask_i64scatter_epi32((void *)20, rewrites, packet, _mm512_cvtepi64_epi32(change), 1);
  _mm512_mask_i64scatter_epi32((void *)-2, rewrites, place, _mm512_cvtepi64_epi32(sum), 1);
}

/// What outer headers have of their own, in network byte order: eight octets of the IPv4 header from its first on; its
/// checksum, UDP source port and length.
VINLINE void wrap(struct leaving *l, __m512i start, __m512i sum, __m512i carried, __m512i length, __m512i hash) {
  const __m512i reversed = _mm512_set4_epi32(0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607);
  __m512i first = _mm512_add_epi64(_mm512_add_epi64(start, length), _mm512_slli_epi64(carried, 16));
  first = _mm512_or_si512(_mm512_slli_epi64(first, 32), all(0x4000));
  sum = _mm512_add_epi64(_mm512_add_epi64(sum, length), _mm512_add_epi64(carried, all(0x4000)));
  const __m512i checksum = invert(_mm512_and_si512(fold(sum), all(0xffff)));
  const __m512i port = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi64(hash, 40), all(0x3fff)), all(0xc000));
  __m512i second = _mm512_slli_epi64(_mm512_add_epi64(length, all(30)), 16);
  second = _mm512_or_si512(second, _mm512_slli_epi64(port, 32));
  second = _mm512_or_si512(second, _mm512_slli_epi64(checksum, 48));
  store_pairs(l->outer, _mm512_shuffle_epi8(first, reversed), _mm512_shuffle_epi8(second, reversed));
}

/// Where those octets are in the 64 before the packet, or before its inner Ethernet header where there is one, by
/// `PlainHop`. Their places are those of the 16 octets that are repeated.
static const struct {
  uint64_t mask;
  uint8_t from[64];
} outers[5] = {
#define FIRST(at) [at] = 0, [at + 1] = 1, [at + 2] = 2, [at + 3] = 3, [at + 4] = 4, [at + 5] = 5, [at + 6] = 6, [at + 7] = 7
#define IP_ONLY(at) {(uint64_t)0xcff << (at), {FIRST(at), [at + 10] = 8, [at + 11] = 9}}
    [2] = IP_ONLY(44),
    [3] = IP_ONLY(40),
    [4] = {(uint64_t)0xcff << 28 | (uint64_t)0x33 << 48,
           {FIRST(28), [38] = 8, [39] = 9, [48] = 10, [49] = 11, [52] = 12, [53] = 13}},
};

/// Counts eight packets, and writes their headers: cache line by cache line.
VINLINE void put(const struct leaving *l, uint32_t second, const int kind) {
  const __m512i from = load8(outers[kind].from);
  const __mmask64 own = outers[kind].mask;
  const __m256i seen = _mm256_set1_epi32((int)second), none = _mm256_setzero_si256();
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) {
    // `last_seen` is the second of eight words; tally and octets are the last four. Not together with other flows': it may be
    // the same one.
    __m256i *flow = (__m256i *)(l->columns[SLOTS + i] + FLOW), state = _mm256_loadu_si256(flow);
    const __m128i counted = _mm_load_si128((const __m128i *)l->counted[PAIR(i)]);
    state = _mm256_add_epi64(_mm256_blend_epi32(state, seen, 2), _mm256_inserti128_si256(none, counted, 1));
    _mm256_storeu_si256(flow, state);
    char *p = (char *)l->columns[PLACES + i];
    const char *headers = (const char *)l->columns[HOPS + i] + HEADERS;
    const __m128i third = _mm_load_si128((const __m128i *)l->third[PAIR(i)]);
    if (kind > 1) {
      const ptrdiff_t before = kind == 4 ? 64 + 14 : 64;
      const __m512i outer = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)l->outer[PAIR(i)]));
      store8(p - before, _mm512_mask_permutexvar_epi8(load8(headers - before), own, from, outer));
    }
    if (kind == 1 || kind == 4) {
      // An Ethernet header, and what changes in the packet, at once.
      const __m256i link = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(headers - 14)));
      _mm256_mask_storeu_epi8(p - 14, 0x03c03fff, _mm256_inserti128_si256(link, third, 1));
    } else {
      memcpy(p + 8, (const char *)l->third[PAIR(i)] + 6, 4);
    }
  }
}

/// Finds out what is to be written of the eight packets listed from place `first` on, and writes what is another octet in each:
/// translations, and where frames begin. False where they are not all alike, or something stands in their way.
VINLINE int prepare(struct kalsae_departure *d, size_t first, struct leaving *l) {
  const uint64_t *listed = d->columns + LISTED + d->start + first;
  const __m512i entry = load8(listed);
  const __m512i index = _mm512_and_si512(entry, all(0xff)), position = _mm512_srli_epi64(entry, 8);
  const uint64_t base = *listed & 0xff;
  __mmask8 good = _mm512_cmpeq_epi64_mask(index, _mm512_add_epi64(all(base), numbers()));
  good = _mm512_mask_cmplt_epu64_mask(good, position, all(d->slot_count));
  if (good != 0xff || base + 8 > d->frame_count) return 0;
  const uint64_t *columns = d->columns + base;
  const __m512i slot = load8(columns + SLOTS);
  __m512i direction, tally, leads, rest;
  words_at(columns + SLOTS, WAY, &direction, &tally);
  const __m512i way = high_half(direction);
  const __m512i hop = _mm512_add_epi64(_mm512_slli_epi64(way, 7), all((uint64_t)d->hops));
  good = _mm512_cmpeq_epi64_mask(low_half(direction), all(d->epoch));
  good = _mm512_mask_cmplt_epu64_mask(good, way, all(d->hop_count));
  good = _mm512_mask_cmpeq_epi64_mask(good, hop, load8(columns + HOPS));
  if (good != 0xff) return 0;
  words_at(apart(columns + HOPS), offsetof(struct kalsae_hop, port), &leads, &rest);
  // From the lowest bit on: port, length of headers, kind, mask, MTU.
  const __m512i mark = load8(columns + MARKS), word = load8(columns + WORDS);
  const __m512i length = _mm512_and_si512(mark, all(0xffff));
  const uint64_t lead = (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(leads));
  const uint64_t kind = lead >> 32 & 0xff, port = lead & 0xffff;
  good = _mm512_cmple_epu64_mask(length, _mm512_srli_epi64(leads, 48));
  good = _mm512_mask_cmpge_epu64_mask(good, length, all(28));
  // The first packet of the answers is special, and so are those with a partial checksum.
  good &= _mm512_test_epi64_mask(tally, all(0xffffffff)) | _mm512_testn_epi64_mask(tally, all((uint64_t)0xff << 48));
  good = _mm512_mask_testn_epi64_mask(good, mark, all((uint64_t)1 << 31));
  const uint64_t common = (uint64_t)0xff << 32 | 0xffff;
  const __mmask8 alike = _mm512_testn_epi64_mask(_mm512_xor_si512(leads, all(lead)), all(common));
  if (kind > 1) good = _mm512_mask_test_epi64_mask(good, word, all(0x400000));
  if (d->is_careful) {
    // Eight packets of one flow come no nearer to the number that makes one special than this.
    const __m512i number = _mm512_and_si512(tally, all(d->offload_mask));
    if (d->offload_mask < 8) return 0;
    good = _mm512_mask_cmplt_epu64_mask(good, number, all(d->offload_mask - 7));
    const __m512i state = _mm512_mul_epu32(way, all(sizeof(struct kalsae_hop_state)));
    const char *learned = (const char *)d->hop_states + offsetof(struct kalsae_hop_state, learned_mtu);
    good = _mm512_mask_testn_epi64_mask(good, _mm512_i64gather_epi64(state, learned, 1), all(0xffffffff));
  }
  if ((good & alike) != 0xff || kind < 1 || kind > 4) return 0;
  if (d->leaving_port != (int32_t)port) {
    if (d->leaving_port >= 0 || !d->may_open) return 0;
    d->leaving_port = (int32_t)port;
  }
  const __m512i packet = load8(columns + PLACES);
  const __m512i pushed = _mm512_and_si512(_mm512_srli_epi64(leads, 16), all(0xffff)), longer = _mm512_add_epi64(length, pushed);
  const __m512i shift = _mm512_sub_epi64(_mm512_and_si512(_mm512_srli_epi64(mark, 16), all(0xff)), pushed);
  const __m512i old = load8(columns + SPANS);
  const __m512i span = _mm512_mask_mov_epi32(_mm512_slli_epi64(longer, 32), 0x5555, _mm512_add_epi32(old, shift));
  l->columns = columns;
  store_pairs(l->counted, all(1), length);
  _mm_storeu_si128((__m128i *)(d->leaving + d->leaving_count), _mm512_cvtepi64_epi16(index));
  d->leaving_count += 8;
  d->grouped_count += 8;
  const __mmask8 rewrites = _mm512_test_epi64_mask(tally, all((uint64_t)0xff << 56));
  l->kind = (unsigned)kind;
  const __mmask8 moves = _mm512_cmpneq_epi64_mask(old, span);
  // (Out of registers: stored and read again one by one, it takes longer.)
  if (moves) {
    const __m512i frames = _mm512_add_epi64(all((uint64_t)(d->frames + base)), _mm512_slli_epi64(numbers(), 6));
    _mm512_mask_i64scatter_epi64((void *)offsetof(struct kalsae_frame, start), moves, frames, span, 1);
  }
  if (rewrites) {
    translate(l, rewrites, slot, packet, word);
  } else {
    note_third(l, count_down(high_half(word)));
  }
  if (kind > 1) {
    const __m512i class = _mm512_and_si512(_mm512_srli_epi64(mark, 48), _mm512_srli_epi64(leads, 40));
    wrap(l, high_half(rest), _mm512_and_si512(rest, all(0xffff)), _mm512_and_si512(class, all(0xff)), length,
         load8(columns + HASHES));
  }
  return 1;
}

VECTOR size_t kalsae_plain_send_eights(struct kalsae_departure *d, size_t first, size_t end) {
  // Many groups wait for memory together, many are written together.
  struct leaving groups[8];
  for (;;) {
    size_t count = 0;
    while (count < 8 && first + 8 <= end && prepare(d, first, groups + count)) first += 8, count++;
    for (size_t i = 0; i < count; i++) {
      const struct leaving *l = groups + i;
      switch (l->kind) {
      case 1: put(l, d->second, 1); break;
      case 2: put(l, d->second, 2); break;
      case 3: put(l, d->second, 3); break;
      default: put(l, d->second, 4); break;
      }
    }
    if (count < 8) return first;
  }
}
#endif

#include "plain_eights.h"

#if defined(__x86_64__)
#include "plain_octets.h"

_Static_assert(sizeof(struct kalsae_frame) == 64 && offsetof(struct kalsae_frame, capacity) == 16, "frames are cache lines");

/// Of eight frames, word by word: where they begin in memory; place in the buffer and length; capacity, port, flags.
struct frames {
  __m512i buffer, span, state;
};

VINLINE struct frames frames_at(const struct kalsae_frame *frame) {
  __m512i z[4];
  for (int i = 0; i < 4; i++) {
    // 0 and 2, 1 and 3, 4 and 6, 5 and 7: the words come out in the frames' order.
    const struct kalsae_frame *one = frame + (i & 1) + (i & 2) * 2;
    const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)one));
    z[i] = _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)(one + 2)), 1);
  }
  const __m512i low = _mm512_unpacklo_epi64(z[0], z[1]), next = _mm512_unpacklo_epi64(z[2], z[3]);
  const __m512i high = _mm512_unpackhi_epi64(z[0], z[1]), last = _mm512_unpackhi_epi64(z[2], z[3]);
  return (struct frames){
      .buffer = _mm512_shuffle_i64x2(low, next, 0x88),
      .span = _mm512_shuffle_i64x2(high, last, 0x88),
      .state = _mm512_shuffle_i64x2(low, next, 0xdd),
  };
}

/// What is known of eight IPv4 packets, word by word: octets 0 to 7 of the header and 8 to 15; the addresses; what is behind
/// a header without options.
struct packets {
  __m512i first, second, addresses, transport;
};

VINLINE struct packets packets_at(const uint64_t at[8], ptrdiff_t offset) {
  struct packets p;
  words_at(at, offset, &p.first, &p.second);
  words_at(at, offset + 12, &p.addresses, &p.transport);
  return p;
}

/// Octets 4 to 11 of the header.
VINLINE __m512i middle(struct packets p) { return _mm512_shrdi_epi64(p.first, p.second, 32); }

/// Total length, in the machine's byte order, and from bit 48 on the traffic class.
VINLINE __m512i total_and_class(struct packets p) {
  const __m512i places =
      _mm512_set4_epi32((int)0x80098080, (int)0x80800a0b, (int)0x80018080, (int)0x80800203);
  return _mm512_shuffle_epi8(p.first, places);
}

/// Which of eight packets have an IPv4 header without options with the right checksum, given that they begin with 0x45.
VINLINE __mmask8 are_intact(__mmask8 mask, struct packets p) {
  __m512i sum = _mm512_add_epi64(low_half(p.first), high_half(p.first));
  sum = _mm512_add_epi64(sum, _mm512_add_epi64(low_half(p.second), high_half(p.second)));
  sum = _mm512_add_epi64(sum, high_half(p.addresses));
  return _mm512_mask_cmpeq_epi64_mask(mask, fold(sum), all(0xffff));
}

/// Of eight rows, bits that differ from `value` where `mask` has a bit, together.
VINLINE __m512i differ(const __m512i row[8], __m512i value, __m512i mask) {
  __m512i sum = _mm512_setzero_si512();
  for (int i = 0; i < 8; i += 2) {
    // sum | ((a ^ value | b ^ value) & mask)
    const __m512i pair = _mm512_ternarylogic_epi64(row[i], row[i + 1], value, 0x7e);
    sum = _mm512_ternarylogic_epi64(sum, pair, mask, 0xf8);
  }
  return sum;
}

/// What the first 64 octets of frames in a tunnel are compared with: `outer`, which begins two octets before them, and where
/// that ends the last two of the eight before the inner header.
VINLINE __m512i whole_row(const uint64_t outer[8], uint64_t inner) {
  uint8_t row[64];
  memcpy(row, (const char *)outer + 2, 62);
  memcpy(row + 62, (const char *)&inner + 6, 2);
  return load8(row);
}

/// The same for the first 16 octets of four bare frames.
VINLINE __m512i four_rows(const uint64_t words[8]) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)((const char *)words + 2)));
}

/// Asks for the slots of eight packets' flows.
INLINE void ask_for_flows(const struct kalsae_plain *plain, size_t first) {
  const uint64_t *places = plain->columns + SLOTS + first;
  for (int i = 0; i < 8; i++) kalsae_prefetch_write((const char *)plain->slots + places[i]);
}

VINLINE size_t parse(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint64_t offset = is_tunnel ? plain->offset : ETHERNET;
  // Frames that are neither to be cut nor cut off, and have their port.
  const __m512i state = all((uint64_t)plain->port << 32);
  const __m512i state_mask = all((uint64_t)(0xff00 | TRUNCATED | (is_tunnel ? CHECKSUM_PARTIAL : 0)) << 48 | (uint64_t)0xffff << 32);
  const __m512i link = four_rows(plain->outer), link_mask = four_rows(plain->outer_mask);
  const __m512i slot_mask = all((plain->slot_count - 1) * sizeof(struct kalsae_slot4));
  const __m512i outers = whole_row(plain->outer, plain->inner), outer_mask = whole_row(plain->outer_mask, plain->inner_mask);
  const size_t begin = first;
  for (; first + 8 <= end; first += 8) {
    struct kalsae_frame *frame = plain->frames + first;
    const struct frames f = frames_at(frame);
    // What is read must be there: the octets that count by the length, the rest by the buffer's size.
    const __m512i start = low_half(f.span), length = high_half(f.span);
    const __mmask8 ready = _mm512_testn_epi64_mask(_mm512_xor_si512(f.state, state), state_mask);
    __mmask8 good = _mm512_cmpge_epu64_mask(_mm512_add_epi64(start, all(offset)), all(plain->room));
    good = _mm512_mask_cmple_epu64_mask(good, _mm512_add_epi64(start, all(offset + 50)), low_half(f.state));
    if (unlikely(ready != 0xff)) {
      good = _mm512_mask_testn_epi64_mask(good, f.state, _mm512_andnot_si512(all((uint64_t)0xffff << 32), state_mask));
      if (good == 0xff) for (int i = 0; i < 8; i++) frame[i].port = plain->port;
    }
    if (good != 0xff) break;

    uint64_t at[8];
    const __m512i header = _mm512_add_epi64(_mm512_add_epi64(f.buffer, start), all(offset));
    store8(plain->columns + PLACES + first, header);
    // (What has just been stored as a vector is not read word by word: that takes three times as long.)
    for (int i = 0; i < 8; i++) at[i] = (uint64_t)frame[i].buffer + frame[i].start + offset;
    __m512i room = _mm512_sub_epi64(length, all(offset));
    struct packets outer;
    __m512i outer_total;
    if (is_tunnel) {
      __m512i row[8];
      const ptrdiff_t back = (ptrdiff_t)offset;
      for (int i = 0; i < 8; i++) row[i] = load8((const char *)at[i] - back);
      const __m512i sum = differ(row, outers, outer_mask);
      if (_mm512_test_epi64_mask(sum, sum)) break;
      outer = packets_at(at, ETHERNET - back);
      outer_total = total_and_class(outer);
      // The outer packet must be whole; the inner one must end where it does, or before.
      const __m512i total = _mm512_and_si512(outer_total, all(0xffff));
      good = are_intact(good, outer);
      good = _mm512_mask_cmple_epi64_mask(good, total, _mm512_sub_epi64(length, all(ETHERNET)));
      room = _mm512_sub_epi64(_mm512_add_epi64(total, all(ETHERNET)), all(offset));
      if (plain->has_udp) {
        const __m512i swapped = _mm512_set4_epi32((int)0x80808080, (int)0x80800c0d, (int)0x80808080, (int)0x80800405);
        const __m512i covered = _mm512_shuffle_epi8(outer.transport, swapped);
        good = _mm512_mask_cmpge_epu64_mask(good, covered, all(8));
        good = _mm512_mask_cmple_epu64_mask(good, _mm512_add_epi64(covered, all(20)), total);
      }
      store8(plain->columns + LISTED + first, low_half(outer.addresses));
    } else {
      const __m512i even = four_at(at, 0, -ETHERNET), odd = four_at(at, 1, -ETHERNET);
      // even ^ link | odd ^ link
      const __m512i differs = _mm512_ternarylogic_epi64(even, odd, link, 0x7e);
      if (_mm512_test_epi64_mask(differs, link_mask)) break;
    }
    const struct packets p = packets_at(at, 0);
    const __m512i word = middle(p), sizes = total_and_class(p), total = _mm512_and_si512(sizes, all(0xffff));
    // Version 4, five words; neither "more fragments" nor an offset.
    good = _mm512_mask_testn_epi64_mask(good, _mm512_xor_si512(p.first, all(0x45)), all(0xff3f0000000000ff));
    const __m512i transport = _mm512_and_si512(p.second, all(0xff00));
    const __mmask8 tcp = _mm512_cmpeq_epi64_mask(transport, all(TCP << 8));
    const __mmask8 udp = _mm512_cmpeq_epi64_mask(transport, all(UDP << 8));
    good = are_intact(good, p);
    good = _mm512_mask_cmple_epi64_mask(good, total, room);
    good = _mm512_mask_cmpge_epu64_mask(good, total, all(28));
    good = _mm512_mask_test_epi64_mask(good, p.second, all(0xfe)) & (tcp | udp);
    __m512i mark = _mm512_or_si512(sizes, all(plain->mark));
    if (tcp) {
      // What opens and closes connections changes more than counts. The octet with the flags is the last of eight.
      const __mmask8 longer = _mm512_cmpge_epu64_mask(total, all(40));
      const __m512i flags = _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), good & tcp, header, (const void *)26, 1);
      good &= ~tcp | _mm512_mask_testn_epi64_mask(longer, flags, all((uint64_t)7 << 56));
      mark = _mm512_ternarylogic_epi64(mark, flags, all((uint64_t)0xff << 56), 0xf8);
    }
    // Ports; transport; what keys have besides.
    __m512i rest = _mm512_ternarylogic_epi64(p.transport, _mm512_slli_epi64(transport, 24), all(0xffffffff), 0xe4);
    rest = _mm512_or_si512(rest, all(plain->tail));
    if (is_tunnel) {
      const __mmask8 verified = _mm512_test_epi64_mask(f.state, all((uint64_t)CHECKSUM_VERIFIED << 48));
      mark = _mm512_mask_or_epi64(mark, verified, mark, all(VERIFIED));
      // TUN-5, TUN-6: nothing to carry over.
      const __m512i class = all((uint64_t)0xff << 48), ttl = all(0xff);
      __mmask8 same = _mm512_testn_epi64_mask(_mm512_xor_si512(outer_total, mark), class);
      if (!plain->uniform_dscp) same |= _mm512_testn_epi64_mask(outer_total, all((uint64_t)3 << 48));
      good &= same;
      if (plain->uniform_ttl) {
        good = _mm512_mask_cmple_epu64_mask(good, _mm512_and_si512(p.second, ttl), _mm512_and_si512(outer.second, ttl));
      }
    } else {
      if (plain->excludes) {
        const __m512i port = _mm512_and_si512(_mm512_srli_epi64(rest, 16), all(0xffff));
        good &= ~(udp & (_mm512_cmpeq_epi64_mask(port, all(plain->excluded[0])) |
                         _mm512_cmpeq_epi64_mask(port, all(plain->excluded[1]))));
      }
      const __mmask8 partial = _mm512_test_epi64_mask(f.state, all((uint64_t)CHECKSUM_PARTIAL << 48));
      if (partial) {
        // Of nothing but the transport header behind the IPv4 header.
        const __m512i places = _mm512_slli_epi64(numbers(), 6);
        const __m512i field = _mm512_i64gather_epi64(places, (const char *)frame + offsetof(struct kalsae_frame, checksum_start), 1);
        __m512i expected = _mm512_add_epi64(start, all(34 | (uint64_t)6 << 32));
        expected = _mm512_mask_add_epi64(expected, tcp, expected, all((uint64_t)10 << 32));
        good &= ~(partial & _mm512_test_epi64_mask(_mm512_xor_si512(field, expected), all(0xffffffffffff)));
        mark = _mm512_mask_or_epi64(mark, partial, mark, all((uint64_t)1 << 31));
      }
    }
    store8(plain->columns + WORDS + first, word);
    store8(plain->columns + MARKS + first, mark);
    store8(plain->columns + SPANS + first, f.span);
    store_in_turn(plain->keys + first, p.addresses, rest);
    const __m512i hash = mix(p.addresses, rest);
    store8(plain->columns + HASHES + first, hash);
    store8(plain->columns + SLOTS + first, _mm512_and_si512(_mm512_slli_epi64(hash, 6), slot_mask));
    // Those of the eight packets before: what has just been stored as a vector is not to be read in parts.
    if (first >= begin + 8) ask_for_flows(plain, first - 8);
    if (good != 0xff) {
      ask_for_flows(plain, first);
      return first + (size_t)__builtin_ctz(~(unsigned)good);
    }
  }
  if (first > begin) ask_for_flows(plain, first - 8);
  return first;
}

VECTOR size_t kalsae_plain_read_eights(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 0);
}

VECTOR size_t kalsae_plain_unwrap_eights(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 1);
}
#endif

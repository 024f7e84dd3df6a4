#include "plain_vector.h"

#if defined(__x86_64__)
#include "plain_octets.h"

_Static_assert(sizeof(struct kalsae_frame) == 56, "frames lie 56 octets apart");

static int has_vectors;

__attribute__((constructor)) static void kalsae_detect_vectors(void) {
  __builtin_cpu_init();
  has_vectors = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}

int kalsae_plain_vector(void) { return has_vectors; }

enum { CHECKSUM_PARTIAL = 1, CHECKSUM_VERIFIED = 2, TRUNCATED = 8, TCP = 6, UDP = 17, ETHERNET = 14 };

/// What is known of eight packets, word by word: addresses; ports, transport; octets 4 to 11 of the IPv4 header; its length
/// and what else `PlainMark` has.
struct packets {
  __m512i addresses, rest, word, mark;
};

/// A row is what lies from 14 octets before an IPv4 header on, an Ethernet header's beginning, which a cache line often
/// begins with. Its octets that matter in the order in which they are kept; those of which `KEPT` has no bit are 0. The
/// total length is in the machine's byte order.
enum { KEPT = 0xc3ff1fff };

VINLINE __m512i order(void) {
  static const uint8_t places[64] = {26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 23, 0, 0, 0,
                                     18, 19, 20, 21, 22, 23, 24, 25, 17, 16, 0,  0,  0,  0, 15, 47};
  return load8(places);
}

/// The same of outer headers, of whose ports there is no need: in the place of the destination's the length of UDP.
VINLINE __m512i outer_order(void) {
  static const uint8_t places[64] = {26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 39, 38, 23, 0, 0, 0,
                                     18, 19, 20, 21, 22, 23, 24, 25, 17, 16, 0,  0,  0,  0, 15, 47};
  return load8(places);
}

/// Eight rows' octets in `order`, with `constant` besides, word by word.
VINLINE struct packets transpose(const __m512i row[8], __m512i order, __m256i constant, uint64_t (*keys)[2]) {
  __m512i z[4];
  for (int i = 0; i < 4; i++) {
    // 0 and 2, 1 and 3, 4 and 6, 5 and 7: the words come out in the packets' order.
    const int one = (i & 1) + (i & 2) * 2, two = one + 2;
    __m256i a = _mm512_castsi512_si256(_mm512_maskz_permutexvar_epi8(KEPT, order, row[one]));
    __m256i b = _mm512_castsi512_si256(_mm512_maskz_permutexvar_epi8(KEPT, order, row[two]));
    a = _mm256_or_si256(a, constant), b = _mm256_or_si256(b, constant);
    if (keys) {
      _mm_storeu_si128((__m128i *)keys[one], _mm256_castsi256_si128(a));
      _mm_storeu_si128((__m128i *)keys[two], _mm256_castsi256_si128(b));
    }
    z[i] = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
  }
  __m512i low = _mm512_unpacklo_epi64(z[0], z[1]), next = _mm512_unpacklo_epi64(z[2], z[3]);
  __m512i high = _mm512_unpackhi_epi64(z[0], z[1]), last = _mm512_unpackhi_epi64(z[2], z[3]);
  return (struct packets){
      .addresses = _mm512_shuffle_i64x2(low, next, 0x88),
      .word = _mm512_shuffle_i64x2(low, next, 0xdd),
      .rest = _mm512_shuffle_i64x2(high, last, 0x88),
      .mark = _mm512_shuffle_i64x2(high, last, 0xdd),
  };
}

/// Which of eight packets have an IPv4 header without options with the right checksum, given that they begin with 0x45.
VINLINE __mmask8 are_intact(__mmask8 mask, struct packets p) {
  // The first four octets, of which the first is left out.
  const __m512i first = _mm512_set4_epi32((int)0x80808080, (int)0x08090e80, (int)0x80808080, (int)0x00010680);
  __m512i sum = _mm512_add_epi64(low_half(p.addresses), high_half(p.addresses));
  sum = _mm512_add_epi64(sum, _mm512_add_epi64(low_half(p.word), high_half(p.word)));
  sum = _mm512_add_epi64(sum, _mm512_add_epi64(_mm512_shuffle_epi8(p.mark, first), all(0x45)));
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

/// What rows are compared with, of which there are words from two octets further before on.
VINLINE __m512i from_third(const uint64_t words[8]) {
  return _mm512_maskz_loadu_epi8((__mmask64)-1 >> 2, (const char *)words + 2);
}

VINLINE size_t parse(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint64_t offset = is_tunnel ? plain->offset : ETHERNET;
  const __m512i places = _mm512_setr_epi64(0, 56, 112, 168, 224, 280, 336, 392), in_order = order();
  const uint64_t forbidden = (uint64_t)0xff << 56 | (uint64_t)(TRUNCATED | (is_tunnel ? CHECKSUM_PARTIAL : 0)) << 48;
  const __m256i constant = _mm256_setr_epi64x(0, (long long)plain->tail, 0, (long long)plain->mark);
  const uint64_t inner[8] = {0, plain->inner, 0x45}, inner_mask[8] = {0, plain->inner_mask, 0xff3f0000000000ff};
  const __m512i headers = from_third(is_tunnel ? inner : plain->outer);
  const __m512i header_mask = from_third(is_tunnel ? inner_mask : plain->outer_mask);
  for (; first + 8 <= end; first += 8) {
    struct kalsae_frame *frame = plain->frames + first;
    const char *fields = (const char *)frame;
    // What is read must be there: the octets that count by the length, the rest by the buffer's size.
    const __m512i span = _mm512_i64gather_epi64(places, fields + 8, 1);
    const __m512i length = low_half(_mm512_i64gather_epi64(places, fields + 16, 1));
    const __m512i rest = _mm512_i64gather_epi64(places, fields + 40, 1);
    const __m512i start = high_half(span), farthest = all(offset + 50);
    __mmask8 good = _mm512_testn_epi64_mask(rest, all(forbidden));
    good = _mm512_mask_cmpge_epu64_mask(good, _mm512_add_epi64(start, all(offset)), all(plain->room));
    good = _mm512_mask_cmpge_epu64_mask(good, length, all(offset + 28));
    good = _mm512_mask_cmple_epu64_mask(good, _mm512_add_epi64(start, farthest), low_half(span));
    if (good != 0xff) break;

    __m512i row[8];
    __m512i room = _mm512_sub_epi64(length, all(offset));
    struct packets outer;
    if (is_tunnel) {
      for (int i = 0; i < 8; i++) row[i] = load8(frame[i].buffer + frame[i].start);
      const __m512i sum = differ(row, from_third(plain->outer), from_third(plain->outer_mask));
      if (_mm512_test_epi64_mask(sum, sum)) break;
      outer = transpose(row, outer_order(), _mm256_setzero_si256(), 0);
      // The outer packet must be whole; the inner one must end where it does, or before.
      const __m512i total = _mm512_and_si512(outer.mark, all(0xffff));
      good = are_intact(good, outer);
      good = _mm512_mask_cmple_epu64_mask(good, total, _mm512_sub_epi64(length, all(ETHERNET)));
      room = _mm512_sub_epi64(_mm512_add_epi64(total, all(ETHERNET)), all(offset));
      if (plain->has_udp) {
        const __m512i covered = _mm512_and_si512(_mm512_srli_epi64(outer.rest, 16), all(0xffff));
        good = _mm512_mask_cmpge_epu64_mask(good, covered, all(8));
        good = _mm512_mask_cmple_epu64_mask(good, _mm512_add_epi64(covered, all(20)), total);
      }
      store8(plain->columns + HASHES + first, low_half(outer.addresses));
    }
    uint64_t *headers_at = plain->columns + PLACES + first;
    for (int i = 0; i < 8; i++) {
      const uint8_t *header = frame[i].buffer + frame[i].start + offset;
      row[i] = load8(header - ETHERNET);
      headers_at[i] = (uint64_t)header;
    }
    const __m512i sum = differ(row, headers, header_mask);
    if (_mm512_test_epi64_mask(sum, sum)) break;
    const struct packets p = transpose(row, in_order, constant, plain->keys + first);
    const __m512i total = _mm512_and_si512(p.mark, all(0xffff));
    const __m512i transport = _mm512_and_si512(p.word, all((uint64_t)0xff << 40));
    const __mmask8 tcp = _mm512_cmpeq_epi64_mask(transport, all((uint64_t)TCP << 40));
    const __mmask8 udp = _mm512_cmpeq_epi64_mask(transport, all((uint64_t)UDP << 40));
    __m512i mark = p.mark;
    good = are_intact(good, p);
    good = _mm512_mask_cmple_epi64_mask(good, total, room);
    good = _mm512_mask_cmpge_epu64_mask(good, total, all(28));
    good = _mm512_mask_test_epi64_mask(good, p.word, all((uint64_t)0xfe << 32)) & (tcp | udp);
    if (tcp) {
      // What opens and closes connections changes more than counts.
      const __mmask8 longer = _mm512_cmpge_epu64_mask(total, all(40));
      good &= ~tcp | _mm512_mask_testn_epi64_mask(longer, mark, all((uint64_t)7 << 56));
    }
    if (is_tunnel) {
      const __mmask8 verified = _mm512_test_epi64_mask(rest, all((uint64_t)CHECKSUM_VERIFIED << 48));
      mark = _mm512_mask_or_epi64(mark, verified, mark, all(VERIFIED));
      // TUN-5, TUN-6: nothing to carry over.
      const __m512i class = all((uint64_t)0xff << 48), ttl = all((uint64_t)0xff << 32);
      __mmask8 same = _mm512_testn_epi64_mask(_mm512_xor_si512(outer.mark, mark), class);
      if (!plain->uniform_dscp) same |= _mm512_testn_epi64_mask(outer.mark, all((uint64_t)3 << 48));
      good &= same;
      if (plain->uniform_ttl) {
        good = _mm512_mask_cmple_epu64_mask(good, _mm512_and_si512(p.word, ttl), _mm512_and_si512(outer.word, ttl));
      }
    } else {
      if (plain->excludes) {
        const __m512i port = _mm512_and_si512(_mm512_srli_epi64(p.rest, 16), all(0xffff));
        good &= ~(udp & (_mm512_cmpeq_epi64_mask(port, all(plain->excluded[0])) |
                         _mm512_cmpeq_epi64_mask(port, all(plain->excluded[1]))));
      }
      const __mmask8 partial = _mm512_test_epi64_mask(rest, all((uint64_t)CHECKSUM_PARTIAL << 48));
      if (partial) {
        // Of nothing but the transport header behind the IPv4 header.
        const __m512i field = _mm512_i64gather_epi64(places, fields + 32, 1);
        __m512i expected = _mm512_add_epi64(start, all(34 | (uint64_t)6 << 32));
        expected = _mm512_mask_add_epi64(expected, tcp, expected, all((uint64_t)10 << 32));
        good &= ~(partial & _mm512_test_epi64_mask(_mm512_xor_si512(field, expected), all(0xffffffffffff)));
        mark = _mm512_mask_or_epi64(mark, partial, mark, all((uint64_t)1 << 31));
      }
    }
    store8(plain->columns + WORDS + first, p.word);
    store8(plain->columns + MARKS + first, mark);
    for (int i = 0; i < 8; i++) frame[i].port = plain->port;
    if (good != 0xff) return first + (size_t)__builtin_ctz(~(unsigned)good);
  }
  return first;
}

VECTOR size_t kalsae_plain_read_vector(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 0);
}

VECTOR size_t kalsae_plain_unwrap_vector(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 1);
}

VECTOR size_t kalsae_plain_hash_vector(const struct kalsae_plain *plain, size_t first, size_t end) {
  const __m512i natural = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  const __m512i mask = all((plain->slot_count - 1) * sizeof(struct kalsae_slot4));
  for (; first + 8 <= end; first += 8) {
    const __m512i keys = load8(plain->keys + first), others = load8(plain->keys + first + 4);
    __m512i hash = mix(_mm512_unpacklo_epi64(keys, others), _mm512_unpackhi_epi64(keys, others));
    hash = _mm512_permutexvar_epi64(natural, hash);
    store8(plain->columns + HASHES + first, hash);
    // The place of listed packets is free until they are looked up.
    uint64_t *places = plain->columns + LISTED + first;
    store8(places, _mm512_and_si512(_mm512_slli_epi64(hash, 6), mask));
    for (int i = 0; i < 8; i++) kalsae_prefetch_write((const char *)plain->slots + places[i]);
  }
  return first;
}

#else

int kalsae_plain_vector(void) { return 0; }
size_t kalsae_plain_read_vector(const struct kalsae_plain *plain, size_t first, size_t end) {
  (void)plain, (void)end;
  return first;
}
size_t kalsae_plain_unwrap_vector(const struct kalsae_plain *plain, size_t first, size_t end) {
  (void)plain, (void)end;
  return first;
}
size_t kalsae_plain_hash_vector(const struct kalsae_plain *plain, size_t first, size_t end) {
  (void)plain, (void)end;
  return first;
}

#endif

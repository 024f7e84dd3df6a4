#include "CDataplane.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2")))
#define INLINE static inline __attribute__((always_inline)) VECTOR

_Static_assert(sizeof(struct kalsae_frame) == 56, "frames lie 56 octets apart");

static int has_vectors;

__attribute__((constructor)) static void kalsae_detect_vectors(void) {
  __builtin_cpu_init();
  has_vectors = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vbmi2");
}

int kalsae_plain_vector(void) { return has_vectors; }

enum { CHECKSUM_PARTIAL = 1, TRUNCATED = 8, TCP = 6, UDP = 17 };

INLINE __m512i all(uint64_t value) { return _mm512_set1_epi64((long long)value); }

/// (a ^ b) & mask | sum
INLINE __m512i differ(__m512i sum, __m512i a, uint64_t b, uint64_t mask) {
  return _mm512_or_si512(sum, _mm512_ternarylogic_epi64(a, all(b), all(mask), 0x28));
}

/// Word n of the eight runs of eight words at `from` becomes lane by lane w[n].
INLINE void load(const uint64_t from[8], __m512i w[8]) {
  __m512i r[8], s[8];
  for (int i = 0; i < 8; i++) r[i] = _mm512_loadu_si512((const void *)from[i]);
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm512_unpacklo_epi64(r[i], r[i + 1]);
    s[i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 1]);
  }
  for (int odd = 0; odd < 2; odd++) {
    __m512i a = _mm512_shuffle_i64x2(s[odd], s[odd + 2], 0x88), b = _mm512_shuffle_i64x2(s[odd], s[odd + 2], 0xdd);
    __m512i c = _mm512_shuffle_i64x2(s[odd + 4], s[odd + 6], 0x88), d = _mm512_shuffle_i64x2(s[odd + 4], s[odd + 6], 0xdd);
    w[odd] = _mm512_shuffle_i64x2(a, c, 0x88);
    w[odd + 4] = _mm512_shuffle_i64x2(a, c, 0xdd);
    w[odd + 2] = _mm512_shuffle_i64x2(b, d, 0x88);
    w[odd + 6] = _mm512_shuffle_i64x2(b, d, 0xdd);
  }
}

/// The total length of IPv4 headers, of which `word` is the first eight octets.
INLINE __m512i total(__m512i word) {
  const __m512i third = _mm512_set4_epi32((int)0x80808080, (int)0x80800a0b, (int)0x80808080, (int)0x80800203);
  return _mm512_shuffle_epi8(word, third);
}

/// Whether IPv4 headers, in three words, the last of which is only half theirs, have the right checksum.
INLINE __mmask8 is_intact(__m512i a, __m512i b, __m512i c) {
  const __m512i half = all(0xffffffff), quarter = all(0xffff);
  __m512i sum = _mm512_add_epi64(_mm512_and_si512(a, half), _mm512_srli_epi64(a, 32));
  sum = _mm512_add_epi64(sum, _mm512_add_epi64(_mm512_and_si512(b, half), _mm512_srli_epi64(b, 32)));
  sum = _mm512_add_epi64(sum, _mm512_and_si512(c, half));
  for (int i = 0; i < 3; i++) sum = _mm512_add_epi64(_mm512_and_si512(sum, quarter), _mm512_srli_epi64(sum, 16));
  return _mm512_cmpeq_epi64_mask(sum, quarter);
}

/// The four words of eight frames that the parser needs.
struct frames {
  __m512i buffer, start, capacity, length, rest;
};

INLINE struct frames frames(const struct kalsae_frame *first) {
  const __m512i places = _mm512_setr_epi64(0, 56, 112, 168, 224, 280, 336, 392);
  const __m512i half = all(0xffffffff);
  const char *p = (const char *)first;
  __m512i start = _mm512_i64gather_epi64(places, p + 8, 1);
  struct frames f = {
      .buffer = _mm512_i64gather_epi64(places, p, 1),
      .start = _mm512_srli_epi64(start, 32),
      .capacity = _mm512_and_si512(start, half),
      .length = _mm512_and_si512(_mm512_i64gather_epi64(places, p + 16, 1), half),
      .rest = _mm512_i64gather_epi64(places, p + 40, 1),
  };
  return f;
}

INLINE size_t parse(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint64_t offset = is_tunnel ? plain->offset : 14;
  // Lanes of two keys each.
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  const uint64_t forbidden = (uint64_t)0xff << 56 | (uint64_t)(TRUNCATED | (is_tunnel ? CHECKSUM_PARTIAL : 0)) << 48;
  for (; first + 8 <= end; first += 8) {
    struct kalsae_frame *frame = plain->frames + first;
    struct frames f = frames(frame);
    uint64_t places[8];
    // What is read must be there: the octets that count by the length, the rest by the buffer's size.
    __mmask8 good = _mm512_testn_epi64_mask(f.rest, all(forbidden));
    good &= _mm512_cmpge_epu64_mask(_mm512_add_epi64(f.start, all(offset)), all(plain->room));
    good &= _mm512_cmpge_epu64_mask(f.length, all(offset + 28));
    good &= _mm512_cmple_epu64_mask(_mm512_add_epi64(f.start, all(is_tunnel ? offset + 48 : 62)), f.capacity);
    if (is_tunnel) good &= _mm512_cmpge_epu64_mask(f.start, all(2));
    if (is_tunnel) good &= _mm512_cmple_epu64_mask(_mm512_add_epi64(f.start, all(62)), f.capacity);
    if (good != 0xff) break;

    __m512i w[8];
    __m512i at = _mm512_add_epi64(f.buffer, f.start);
    __m512i sum = _mm512_setzero_si512();
    __m512i room = _mm512_sub_epi64(f.length, all(offset));
    __m512i a, b, c, flags;
    if (is_tunnel) {
      __m512i o[8];
      _mm512_storeu_si512(places, _mm512_sub_epi64(at, all(2)));
      load(places, o);
      for (int i = 0; i < 8; i++) sum = differ(sum, o[i], plain->outer[i], plain->outer_mask[i]);
      // The outer packet must be whole; the inner one must end where it does, or before.
      __m512i outer = total(o[2]);
      good &= _mm512_cmple_epu64_mask(outer, _mm512_sub_epi64(f.length, all(14)));
      good &= is_intact(o[2], o[3], o[4]);
      room = _mm512_sub_epi64(_mm512_add_epi64(outer, all(14)), all(offset));
      if (plain->has_udp) {
        const __m512i first = _mm512_set4_epi32((int)0x80808080, (int)0x80800809, (int)0x80808080, (int)0x80800001);
        __m512i length = _mm512_shuffle_epi8(o[5], first);
        good &= _mm512_cmpge_epu64_mask(length, all(8));
        good &= _mm512_cmple_epu64_mask(_mm512_add_epi64(length, all(20)), outer);
      }
      _mm512_storeu_si512(plain->columns + first, _mm512_srli_epi64(o[3], 32));
      _mm512_storeu_si512(places, _mm512_add_epi64(at, all(offset - 16)));
      load(places, w);
      sum = differ(sum, w[1], plain->inner, plain->inner_mask);
      a = w[2], b = w[3], c = w[4], flags = w[6];
      // TUN-5, TUN-6: nothing to carry over.
      __mmask8 same = _mm512_testn_epi64_mask(_mm512_xor_si512(o[2], a), all(0xff00));
      if (!plain->uniform_dscp) same |= _mm512_testn_epi64_mask(o[2], all(0x0300));
      good &= same;
      if (plain->uniform_ttl) {
        good &= _mm512_cmple_epu64_mask(_mm512_and_si512(b, all(0xff)), _mm512_and_si512(o[3], all(0xff)));
      }
    } else {
      _mm512_storeu_si512(places, _mm512_sub_epi64(at, all(2)));
      load(places, w);
      for (int i = 0; i < 2; i++) sum = differ(sum, w[i], plain->outer[i], plain->outer_mask[i]);
      a = w[2], b = w[3], c = w[4], flags = w[6];
    }
    // Version 4, five words; neither "more fragments" nor an offset.
    sum = differ(sum, a, 0x45, 0xff3f0000000000ff);
    good &= _mm512_testn_epi64_mask(sum, sum);
    __m512i length = total(a);
    good &= _mm512_cmple_epi64_mask(length, room);
    good &= _mm512_test_epi64_mask(b, all(0xfe));
    __m512i transport = _mm512_and_si512(b, all(0xff00));
    __mmask8 tcp = _mm512_cmpeq_epi64_mask(transport, all(TCP << 8));
    __mmask8 udp = _mm512_cmpeq_epi64_mask(transport, all(UDP << 8));
    good &= _mm512_cmpge_epu64_mask(length, all(28));
    good &= is_intact(a, b, c);
    __m512i mark = _mm512_or_si512(length, _mm512_slli_epi64(_mm512_and_si512(a, all(0xff00)), 40));
    mark = _mm512_or_si512(mark, all(plain->mark));
    if (tcp) {
      // What opens and closes connections changes more than counts.
      good &= ~(tcp & (_mm512_test_epi64_mask(flags, all(0x0700)) | _mm512_cmplt_epu64_mask(length, all(40))));
      mark = _mm512_mask_or_epi64(mark, tcp, mark, _mm512_slli_epi64(_mm512_and_si512(flags, all(0xff00)), 48));
    }
    good &= tcp | udp;
    if (!is_tunnel) {
      if (plain->excludes) {
        __m512i port = _mm512_srli_epi64(c, 48);
        good &= ~(udp & (_mm512_cmpeq_epi64_mask(port, all(plain->excluded[0])) |
                         _mm512_cmpeq_epi64_mask(port, all(plain->excluded[1]))));
      }
      __mmask8 partial = _mm512_test_epi64_mask(f.rest, all((uint64_t)CHECKSUM_PARTIAL << 48));
      if (partial) {
        // Of nothing but the transport header behind the IPv4 header.
        const __m512i places = _mm512_setr_epi64(0, 56, 112, 168, 224, 280, 336, 392);
        __m512i field = _mm512_i64gather_epi64(places, (const char *)frame + 32, 1);
        __m512i expected = _mm512_add_epi64(f.start, all(34 | (uint64_t)6 << 32));
        expected = _mm512_mask_add_epi64(expected, tcp, expected, all((uint64_t)10 << 32));
        good &= ~(partial & _mm512_test_epi64_mask(_mm512_xor_si512(field, expected), all(0xffffffffffff)));
        mark = _mm512_mask_or_epi64(mark, partial, mark, all((uint64_t)1 << 31));
      }
    }
    __m512i addresses = _mm512_shrdi_epi64(b, c, 32);
    __m512i rest = _mm512_or_si512(_mm512_srli_epi64(c, 32), _mm512_slli_epi64(transport, 24));
    rest = _mm512_or_si512(rest, all(plain->tail));
    _mm512_storeu_si512(plain->keys + first, _mm512_permutex2var_epi64(addresses, low, rest));
    _mm512_storeu_si512(plain->keys + first + 4, _mm512_permutex2var_epi64(addresses, high, rest));
    _mm512_storeu_si512(plain->columns + kalsae_column_length + first, _mm512_shrdi_epi64(a, b, 32));
    _mm512_storeu_si512(plain->columns + 2 * kalsae_column_length + first, mark);
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

#endif

#pragma once
// What the loops have in common that take eight packets at a time, where the processor has 512-bit vectors.
#include "plain_octets.h"

#if defined(__x86_64__)
// (Tests compile these files with what stands for the instructions where a processor has none: KALSAE_VECTORS.)
#if defined(KALSAE_VECTORS)
#include KALSAE_VECTORS
#define VECTOR
#else
#include <immintrin.h>
#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2")))
#endif
#define VINLINE static inline __attribute__((always_inline)) VECTOR

/// The same word in each lane.
VINLINE __m512i all(uint64_t value) { return _mm512_set1_epi64((long long)value); }

/// The lower half of each lane, and the upper.
VINLINE __m512i low_half(__m512i a) { return _mm512_and_si512(a, all(0xffffffff)); }
VINLINE __m512i high_half(__m512i a) { return _mm512_srli_epi64(a, 32); }

/// Eight octets each from `offset` behind these addresses on.
#define GATHER(addresses, offset) _mm512_i64gather_epi64(addresses, (const void *)(intptr_t)(offset), 1)

VINLINE __m512i load8(const void *p) { return _mm512_loadu_si512(p); }
VINLINE void store8(void *p, __m512i value) { _mm512_storeu_si512(p, value); }

VINLINE __m512i numbers(void) { return _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7); }

/// 16 octets each of four of eight places in memory, `offset` behind them: of those with even numbers, or of the others.
/// (Loads, and not permutations of whole rows: the unit that permutes has enough to do.)
VINLINE __m512i four_at(const uint64_t at[8], int odd, ptrdiff_t offset) {
  __m512i four = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(at[odd] + offset)));
  four = _mm512_inserti64x2(four, _mm_loadu_si128((const __m128i *)(at[odd + 2] + offset)), 1);
  four = _mm512_inserti64x2(four, _mm_loadu_si128((const __m128i *)(at[odd + 4] + offset)), 2);
  return _mm512_inserti64x2(four, _mm_loadu_si128((const __m128i *)(at[odd + 6] + offset)), 3);
}

/// The first 16 octets each of four places in memory.
VINLINE __m512i four_next(const uint64_t at[4]) {
  __m512i four = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)at[0]));
  four = _mm512_inserti64x2(four, _mm_loadu_si128((const __m128i *)at[1]), 1);
  four = _mm512_inserti64x2(four, _mm_loadu_si128((const __m128i *)at[2]), 2);
  return _mm512_inserti64x2(four, _mm_loadu_si128((const __m128i *)at[3]), 3);
}

/// Two words each of eight places in memory, `offset` behind them.
VINLINE void words_at(const uint64_t at[8], ptrdiff_t offset, __m512i *first, __m512i *second) {
  const __m512i even = four_at(at, 0, offset), odd = four_at(at, 1, offset);
  *first = _mm512_unpacklo_epi64(even, odd);
  *second = _mm512_unpackhi_epi64(even, odd);
}

/// Writes two words each of eight, one pair behind the other.
VINLINE void store_in_turn(void *p, __m512i first, __m512i second) {
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_add_epi64(low, all(4));
  store8(p, _mm512_permutex2var_epi64(first, low, second));
  store8((char *)p + 64, _mm512_permutex2var_epi64(first, high, second));
}

/// A sum of 16-bit words of less than 2^36 as a one's complement sum: 0 to 0x10007, and where it is a multiple of 0xffff
/// but not 0, 0xffff.
VINLINE __m512i fold(__m512i sum) {
  const __m512i word = all(0xffff);
  sum = _mm512_add_epi64(_mm512_and_si512(sum, word), _mm512_srli_epi64(sum, 16));
  return _mm512_add_epi64(_mm512_and_si512(sum, word), _mm512_srli_epi64(sum, 16));
}

/// `kalsae_mix` of eight pairs of words: 64 by 64 bits in four multiplications of 32 by 32.
VINLINE __m512i mix(__m512i a, __m512i b) {
  a = _mm512_xor_si512(a, all(0x9e3779b97f4a7c15)), b = _mm512_xor_si512(b, all(0xe7037ed1a0b428db));
  const __m512i a_high = high_half(a), b_high = high_half(b);
  const __m512i low = _mm512_mul_epu32(a, b), high = _mm512_mul_epu32(a_high, b_high);
  const __m512i one = _mm512_mul_epu32(a, b_high), other = _mm512_mul_epu32(a_high, b);
  const __m512i middle = _mm512_add_epi64(high_half(low), _mm512_add_epi64(low_half(one), low_half(other)));
  const __m512i carry = _mm512_add_epi64(high_half(middle), _mm512_add_epi64(high_half(one), high_half(other)));
  const __m512i lower = _mm512_mask_mov_epi32(_mm512_slli_epi64(middle, 32), 0x5555, low);
  return _mm512_xor_si512(lower, _mm512_add_epi64(high, carry));
}
#endif

#pragma once
// What the loops have in common that take eight packets at a time, where the processor has 512-bit vectors.
#include "CDataplane.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2")))
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

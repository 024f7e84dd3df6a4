#pragma once
// What the loops have in common that take four packets at a time, where the processor has 256-bit vectors.
#include "plain_octets.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define FOURS __attribute__((target("avx2,bmi,bmi2")))
#define FINLINE static inline __attribute__((always_inline)) FOURS

/// Four words, as the compiler knows them: arithmetic is modulo 2^64, and what is compared becomes all ones or none.
typedef uint64_t quad __attribute__((vector_size(32)));

/// The same word in each lane.
FINLINE quad four(uint64_t value) { return (quad){value, value, value, value}; }
FINLINE quad load4(const void *p) { return (quad)_mm256_loadu_si256((const __m256i *)p); }
FINLINE void store4(void *p, quad value) { _mm256_storeu_si256((__m256i *)p, (__m256i)value); }

/// The lower half of each lane.
FINLINE quad low(quad a) { return a & four(0xffffffff); }

/// Which lanes are equal.
FINLINE quad same(quad a, quad b) { return (quad)(a == b); }
FINLINE quad choose(quad mask, quad a, quad b) { return (quad)_mm256_blendv_epi8((__m256i)b, (__m256i)a, (__m256i)mask); }
/// Whether some lane has one of the mask's bits.
FINLINE int any(quad a, quad mask) { return !_mm256_testz_si256((__m256i)a, (__m256i)mask); }
/// The lanes' highest bits.
FINLINE unsigned highest(quad a) { return (unsigned)_mm256_movemask_pd((__m256d)a); }
/// Products of the lanes' lower halves.
FINLINE quad multiply(quad a, quad b) { return (quad)_mm256_mul_epu32((__m256i)a, (__m256i)b); }

/// 16 octets each of two places in memory.
FINLINE quad two_at(uint64_t one, uint64_t other) {
  const __m256i two = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)one));
  return (quad)_mm256_inserti128_si256(two, _mm_loadu_si128((const __m128i *)other), 1);
}

/// Two words each of four places in memory, `offset` behind them.
FINLINE void pairs_at(const uint64_t at[4], ptrdiff_t offset, quad *first, quad *second) {
  const quad even = two_at(at[0] + offset, at[2] + offset), odd = two_at(at[1] + offset, at[3] + offset);
  *first = __builtin_shufflevector(even, odd, 0, 4, 2, 6);
  *second = __builtin_shufflevector(even, odd, 1, 5, 3, 7);
}

/// One word each of four places in memory.
FINLINE quad words_of(const uint64_t at[4], ptrdiff_t offset) {
  return (quad){load64((const void *)(at[0] + offset)), load64((const void *)(at[1] + offset)),
                load64((const void *)(at[2] + offset)), load64((const void *)(at[3] + offset))};
}

/// A sum of 16-bit words of less than 2^36 as a one's complement sum: 0 to 0x10007, and where it is a multiple of 0xffff
/// but not 0, 0xffff.
FINLINE quad fold4(quad sum) {
  sum = (sum & four(0xffff)) + (sum >> 16);
  return (sum & four(0xffff)) + (sum >> 16);
}

/// `kalsae_mix` of four pairs of words: 64 by 64 bits in four multiplications of 32 by 32.
FINLINE quad mix4(quad a, quad b) {
  a ^= four(0x9e3779b97f4a7c15), b ^= four(0xe7037ed1a0b428db);
  const quad a_high = a >> 32, b_high = b >> 32;
  const quad lowest = multiply(a, b), one = multiply(a, b_high), other = multiply(a_high, b);
  const quad middle = (lowest >> 32) + low(one) + low(other);
  const quad carry = (middle >> 32) + (one >> 32) + (other >> 32);
  const quad lower = (quad)_mm256_blend_epi32((__m256i)lowest, (__m256i)(middle << 32), 0xaa);
  return lower ^ (multiply(a_high, b_high) + carry);
}
#endif

#pragma once
// What the loops have in common for processors with vectors of 256 bits: of four words (`quad`), or of eight half ones
// (`eight`). Eight packets are taken at a time, 32 bits of each; where it must be 64, four and four.
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

/// 32-bit words of eight packets: of packets 0, 1, 4, 5, 2, 3, 6, 7. What is woven together then lies in order.
typedef uint32_t eight __attribute__((vector_size(32)));

/// Which packet is in a lane.
static const uint8_t packet_in[8] = {0, 1, 4, 5, 2, 3, 6, 7};

FINLINE eight each(uint32_t value) { return (eight){value, value, value, value, value, value, value, value}; }
/// The same from memory, where it costs no instruction of its own.
FINLINE eight at_hand(const uint32_t value[8]) { return (eight)_mm256_load_si256((const __m256i *)value); }
FINLINE eight same8(eight a, eight b) { return (eight)(a == b); }
FINLINE int any8(eight a, eight mask) { return !_mm256_testz_si256((__m256i)a, (__m256i)mask); }
/// Whether some lane has the highest bit.
FINLINE int is_any_high(eight a) { return _mm256_movemask_ps((__m256)a); }
/// The lanes' highest bits, in the order of packets.
FINLINE unsigned highest8(eight a) {
  const unsigned bits = (unsigned)_mm256_movemask_ps((__m256)a);
  return (bits & 0xc3) | (bits & 0x0c) << 2 | (bits & 0x30) >> 2;
}

/// A vector that is made now, as a whole: not by the compiler for each lane by itself, nor only when it is used, until when
/// there were not registers for all its parts.
FINLINE quad settled4(quad a) {
  __asm__("" : "+x"(a));
  return a;
}
FINLINE eight settled8(eight a) { return (eight)settled4((quad)a); }

/// Four words each of eight packets.
struct words8 {
  eight word[4];
};

/// The words of 16 octets each of eight packets: 0 and 2, 1 and 3, 4 and 6, 5 and 7.
FINLINE struct words8 turned(quad a, quad b, quad c, quad d) {
  const __m256i ab = _mm256_unpacklo_epi32((__m256i)a, (__m256i)b), cd = _mm256_unpacklo_epi32((__m256i)c, (__m256i)d);
  const __m256i ba = _mm256_unpackhi_epi32((__m256i)a, (__m256i)b), dc = _mm256_unpackhi_epi32((__m256i)c, (__m256i)d);
  return (struct words8){{
      (eight)_mm256_unpacklo_epi64(ab, cd), (eight)_mm256_unpackhi_epi64(ab, cd), (eight)_mm256_unpacklo_epi64(ba, dc),
      (eight)_mm256_unpackhi_epi64(ba, dc)}};
}

/// 16 octets each from `offset` behind eight places in memory on.
FINLINE struct words8 words8_at(const uint64_t *places, ptrdiff_t offset) {
  const uint64_t *at = apart(places);
  return turned(
      two_at(at[0] + offset, at[2] + offset), two_at(at[1] + offset, at[3] + offset), two_at(at[4] + offset, at[6] + offset),
      two_at(at[5] + offset, at[7] + offset));
}

/// 64-bit words of packets 0 to 3, or 4 to 7, of their halves.
FINLINE quad woven(eight lower, eight upper, const int is_second) {
  return is_second ? (quad)_mm256_unpackhi_epi32((__m256i)lower, (__m256i)upper)
                   : (quad)_mm256_unpacklo_epi32((__m256i)lower, (__m256i)upper);
}
FINLINE void store_woven(uint64_t *to, eight lower, eight upper) {
  store4(to, woven(lower, upper, 0));
  store4(to + 4, woven(lower, upper, 1));
}

/// The lower halves of 64-bit words of packets 0 to 3 and 4 to 7, or the upper: words 0 and 2 of each, or 1 and 3.
FINLINE eight halves(quad first, quad second, const int upper) {
  return upper ? (eight)_mm256_shuffle_ps((__m256)first, (__m256)second, 0xdd)
               : (eight)_mm256_shuffle_ps((__m256)first, (__m256)second, 0x88);
}
FINLINE eight halves_at(const uint64_t *words, const int upper) {
  return halves(load4(words), load4(words + 4), upper);
}
#endif

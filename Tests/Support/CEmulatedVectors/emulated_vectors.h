#pragma once
// The AVX-512 instructions that Sources/CDataplane uses, by those of AVX2 and by ordinary C: slow, and anywhere to be had. Most
// are SIMDe's; those that follow it has not in all versions, or not right.
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

typedef simde__m512i vector512;

/// The lanes of a vector as an array, and back.
#define LANES(type, name, vector) type name[sizeof(vector) / sizeof(type)]; memcpy(name, &(vector), sizeof name)
#define VECTOR_OF(type, array) ({ type vector_; memcpy(&vector_, array, sizeof vector_); vector_; })

/// Of which lanes of the mask something is so, of `x` and `y`.
#define COMPARISON(name, type, expression)                                   \
  static inline uint8_t name(uint8_t mask, vector512 a, vector512 b) {       \
    LANES(type, from, a);                                                    \
    LANES(type, other, b);                                                   \
    uint8_t found = 0;                                                       \
    for (int i = 0; i < 8; i++) {                                            \
      const type x = from[i], y = other[i];                                  \
      found |= (uint8_t)((expression) << i);                                 \
    }                                                                        \
    return found & mask;                                                     \
  }
COMPARISON(lt_epu64, uint64_t, x < y)
COMPARISON(le_epu64, uint64_t, x <= y)
COMPARISON(ge_epu64, uint64_t, x >= y)
COMPARISON(eq_epi64, int64_t, x == y)
COMPARISON(neq_epi64, int64_t, x != y)
COMPARISON(le_epi64, int64_t, x <= y)
COMPARISON(test, uint64_t, (x & y) != 0)
COMPARISON(testn, uint64_t, (x & y) == 0)

static inline vector512 gather64(vector512 otherwise, uint8_t mask, vector512 places, const void *base) {
  LANES(uint64_t, at, places);
  LANES(uint64_t, to, otherwise);
  for (int i = 0; i < 8; i++)
    if (mask >> i & 1) memcpy(to + i, (const void *)((uintptr_t)base + at[i]), sizeof to[i]);
  return VECTOR_OF(vector512, to);
}

static inline void scatter64(void *base, uint8_t mask, vector512 places, vector512 values) {
  LANES(uint64_t, at, places);
  LANES(uint64_t, from, values);
  for (int i = 0; i < 8; i++)
    if (mask >> i & 1) memcpy((void *)((uintptr_t)base + at[i]), from + i, sizeof from[i]);
}

static inline void scatter32(void *base, uint8_t mask, vector512 places, __m256i values) {
  LANES(uint64_t, at, places);
  LANES(uint32_t, from, values);
  for (int i = 0; i < 8; i++)
    if (mask >> i & 1) memcpy((void *)((uintptr_t)base + at[i]), from + i, sizeof from[i]);
}

static inline __m128i compress8(uint16_t mask, __m128i a) {
  LANES(uint8_t, from, a);
  uint8_t to[16] = {0};
  int count = 0;
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) to[count++] = from[i];
  return VECTOR_OF(__m128i, to);
}

/// Of each of two pairs of 128 bits of the result, which of four it is.
static inline vector512 shuffle128(vector512 a, vector512 b, int order) {
  LANES(uint64_t, x, a);
  LANES(uint64_t, y, b);
  uint64_t to[8];
  for (int i = 0; i < 4; i++) memcpy(to + 2 * i, (i < 2 ? x : y) + 2 * (order >> 2 * i & 3), 16);
  return VECTOR_OF(vector512, to);
}

/// Two words side by side, `a` the lower one, moved down by less than 64 bits.
static inline vector512 shift_pairs(vector512 a, vector512 b, int bits) {
  LANES(uint64_t, x, a);
  LANES(uint64_t, y, b);
  uint64_t to[8];
  for (int i = 0; i < 8; i++) to[i] = (uint64_t)(((unsigned __int128)y[i] << 64 | x[i]) >> bits);
  return VECTOR_OF(vector512, to);
}

static inline __m128i narrow16(vector512 a) {
  LANES(uint64_t, from, a);
  uint16_t to[8];
  for (int i = 0; i < 8; i++) to[i] = (uint16_t)from[i];
  return VECTOR_OF(__m128i, to);
}

static inline void put8(void *to, uint32_t mask, __m256i a) {
  LANES(uint8_t, from, a);
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) ((uint8_t *)to)[i] = from[i];
}

#undef _mm512_mask_cmplt_epu64_mask
#define _mm512_mask_cmplt_epu64_mask(mask, a, b) lt_epu64(mask, a, b)
#undef _mm512_cmple_epu64_mask
#define _mm512_cmple_epu64_mask(a, b) le_epu64(0xff, a, b)
#undef _mm512_mask_cmple_epu64_mask
#define _mm512_mask_cmple_epu64_mask(mask, a, b) le_epu64(mask, a, b)
#undef _mm512_cmpge_epu64_mask
#define _mm512_cmpge_epu64_mask(a, b) ge_epu64(0xff, a, b)
#undef _mm512_mask_cmpge_epu64_mask
#define _mm512_mask_cmpge_epu64_mask(mask, a, b) ge_epu64(mask, a, b)
#undef _mm512_cmpeq_epi64_mask
#define _mm512_cmpeq_epi64_mask(a, b) eq_epi64(0xff, a, b)
#undef _mm512_mask_cmpeq_epi64_mask
#define _mm512_mask_cmpeq_epi64_mask(mask, a, b) eq_epi64(mask, a, b)
#undef _mm512_cmpneq_epi64_mask
#define _mm512_cmpneq_epi64_mask(a, b) neq_epi64(0xff, a, b)
#undef _mm512_mask_cmple_epi64_mask
#define _mm512_mask_cmple_epi64_mask(mask, a, b) le_epi64(mask, a, b)
#undef _mm512_test_epi64_mask
#define _mm512_test_epi64_mask(a, b) test(0xff, a, b)
#undef _mm512_mask_test_epi64_mask
#define _mm512_mask_test_epi64_mask(mask, a, b) test(mask, a, b)
#undef _mm512_testn_epi64_mask
#define _mm512_testn_epi64_mask(a, b) testn(0xff, a, b)
#undef _mm512_mask_testn_epi64_mask
#define _mm512_mask_testn_epi64_mask(mask, a, b) testn(mask, a, b)
#undef _mm512_i64gather_epi64
#define _mm512_i64gather_epi64(places, base, scale) gather64(places, 0xff, places, base)
#undef _mm512_mask_i64gather_epi64
#define _mm512_mask_i64gather_epi64(otherwise, mask, places, base, scale) gather64(otherwise, mask, places, base)
#undef _mm512_mask_i64scatter_epi64
#define _mm512_mask_i64scatter_epi64(base, mask, places, values, scale) scatter64(base, mask, places, values)
#undef _mm512_mask_i64scatter_epi32
#define _mm512_mask_i64scatter_epi32(base, mask, places, values, scale) scatter32(base, mask, places, values)
#undef _mm_maskz_compress_epi8
#define _mm_maskz_compress_epi8(mask, a) compress8(mask, a)
#undef _mm512_shuffle_i64x2
#define _mm512_shuffle_i64x2(a, b, order) shuffle128(a, b, order)
#undef _mm512_shrdi_epi64
#define _mm512_shrdi_epi64(a, b, bits) shift_pairs(a, b, bits)
#undef _mm512_cvtepi64_epi16
#define _mm512_cvtepi64_epi16(a) narrow16(a)
#undef _mm256_mask_storeu_epi8
#define _mm256_mask_storeu_epi8(to, mask, a) put8(to, mask, a)

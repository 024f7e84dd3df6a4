#include "CDataplane.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

// Which instructions this processor has beyond those that the build assumes; settled before main.
static int has_avx2, has_sse42;
static unsigned lanes = 1;
static uint32_t crc32c_table[8][256];

__attribute__((constructor)) static void kalsae_detect(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  has_avx2 = __builtin_cpu_supports("avx2") != 0;
  has_sse42 = __builtin_cpu_supports("sse4.2") != 0;
  if (has_avx2 && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")) lanes = 4;
  if (lanes == 4 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2")) {
    lanes = 8;
  }
#endif
  for (unsigned i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    crc32c_table[0][i] = crc;
  }
  for (unsigned i = 0; i < 256; i++)
    for (int slice = 1; slice < 8; slice++) {
      uint32_t previous = crc32c_table[slice - 1][i];
      crc32c_table[slice][i] = previous >> 8 ^ crc32c_table[0][previous & 0xff];
    }
}

unsigned kalsae_plain_lanes(void) { return lanes; }

// One's complement sums. Words of 32 bits are added into 64 bits: 2^32 of them fit, so nothing is lost.

static inline uint64_t load64(const uint8_t *p) {
  uint64_t word;
  memcpy(&word, p, 8);
  return word;
}

static inline uint64_t fold33(uint64_t sum) { return (sum & 0xffffffff) + (sum >> 32); }

/// The last 0 to 7 octets, padded with zeros.
static inline uint64_t tail_sum(const uint8_t *p, size_t length) {
  uint64_t sum = 0;
  if (length & 4) {
    uint32_t word;
    memcpy(&word, p, 4);
    sum = word;
    p += 4;
  }
  if (length & 2) {
    uint16_t word;
    memcpy(&word, p, 2);
    sum += word;
    p += 2;
  }
  if (length & 1) {
    uint16_t word = 0;
    memcpy(&word, p, 1);
    sum += word;
  }
  return sum;
}

static inline uint64_t sum_words(const uint8_t *p, size_t length) {
  uint64_t low = 0, high = 0;
  for (; length >= 16; p += 16, length -= 16) {
    uint64_t a = load64(p), b = load64(p + 8);
    low += (a & 0xffffffff) + (b & 0xffffffff);
    high += (a >> 32) + (b >> 32);
  }
  if (length >= 8) {
    low += fold33(load64(p));
    p += 8;
    length -= 8;
  }
  return low + high + (length ? tail_sum(p, length) : 0);
}

static uint64_t copy_sum_words(uint8_t *to, const uint8_t *p, size_t length) {
  uint64_t low = 0, high = 0;
  for (; length >= 16; p += 16, to += 16, length -= 16) {
    uint64_t a = load64(p), b = load64(p + 8);
    memcpy(to, &a, 8);
    memcpy(to + 8, &b, 8);
    low += (a & 0xffffffff) + (b & 0xffffffff);
    high += (a >> 32) + (b >> 32);
  }
  memcpy(to, p, length);
  if (length >= 8) {
    low += fold33(load64(p));
    p += 8;
    length -= 8;
  }
  return low + high + (length ? tail_sum(p, length) : 0);
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

AVX2 static inline uint64_t lanes_sum(__m256i v) {
  uint64_t lanes[4];
  _mm256_storeu_si256((__m256i *)lanes, v);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

AVX2 static uint64_t sum_avx2(const uint8_t *p, size_t length) {
  const __m256i mask = _mm256_set1_epi64x(0xffffffff);
  __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0;
  for (; length >= 64; p += 64, length -= 64) {
    __m256i v = _mm256_loadu_si256((const __m256i *)p), w = _mm256_loadu_si256((const __m256i *)(p + 32));
    a0 = _mm256_add_epi64(a0, _mm256_and_si256(v, mask));
    a1 = _mm256_add_epi64(a1, _mm256_srli_epi64(v, 32));
    a2 = _mm256_add_epi64(a2, _mm256_and_si256(w, mask));
    a3 = _mm256_add_epi64(a3, _mm256_srli_epi64(w, 32));
  }
  uint64_t sum = lanes_sum(_mm256_add_epi64(_mm256_add_epi64(a0, a1), _mm256_add_epi64(a2, a3)));
  return fold33(sum) + sum_words(p, length);
}

AVX2 static uint64_t copy_sum_avx2(uint8_t *to, const uint8_t *p, size_t length) {
  const __m256i mask = _mm256_set1_epi64x(0xffffffff);
  __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0;
  for (; length >= 64; p += 64, to += 64, length -= 64) {
    __m256i v = _mm256_loadu_si256((const __m256i *)p), w = _mm256_loadu_si256((const __m256i *)(p + 32));
    _mm256_storeu_si256((__m256i *)to, v);
    _mm256_storeu_si256((__m256i *)(to + 32), w);
    a0 = _mm256_add_epi64(a0, _mm256_and_si256(v, mask));
    a1 = _mm256_add_epi64(a1, _mm256_srli_epi64(v, 32));
    a2 = _mm256_add_epi64(a2, _mm256_and_si256(w, mask));
    a3 = _mm256_add_epi64(a3, _mm256_srli_epi64(w, 32));
  }
  uint64_t sum = lanes_sum(_mm256_add_epi64(_mm256_add_epi64(a0, a1), _mm256_add_epi64(a2, a3)));
  return fold33(sum) + copy_sum_words(to, p, length);
}
#endif

uint64_t kalsae_sum_portable(const void *octets, size_t length) { return fold33(sum_words(octets, length)); }

uint64_t kalsae_sum(const void *octets, size_t length) {
#if defined(__x86_64__)
  if (length >= 128 && has_avx2) return fold33(sum_avx2(octets, length));
#endif
  return fold33(sum_words(octets, length));
}

uint64_t kalsae_copy_sum(void *to, const void *from, size_t length) {
#if defined(__x86_64__)
  if (length >= 128 && has_avx2) return fold33(copy_sum_avx2(to, from, length));
#endif
  return fold33(copy_sum_words(to, from, length));
}

// CRC32c, reflected, initial and final inversion by the caller's convention of RFC 9260, appendix A.

uint32_t kalsae_crc32c_portable(uint32_t crc, const void *octets, size_t length) {
  const uint8_t *p = octets;
  for (; length >= 8; p += 8, length -= 8) {
    uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
    crc = crc32c_table[7][low & 0xff] ^ crc32c_table[6][low >> 8 & 0xff] ^ crc32c_table[5][low >> 16 & 0xff] ^
          crc32c_table[4][low >> 24] ^ crc32c_table[3][p[4]] ^ crc32c_table[2][p[5]] ^ crc32c_table[1][p[6]] ^
          crc32c_table[0][p[7]];
  }
  for (; length; p++, length--) crc = crc >> 8 ^ crc32c_table[0][(crc ^ *p) & 0xff];
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p, size_t length) {
  uint64_t wide = crc;
  for (; length >= 8; p += 8, length -= 8) wide = _mm_crc32_u64(wide, load64(p));
  crc = (uint32_t)wide;
  for (; length; p++, length--) crc = _mm_crc32_u8(crc, *p);
  return crc;
}
#endif

uint32_t kalsae_crc32c(uint32_t crc, const void *octets, size_t length) {
#if defined(__x86_64__)
  if (has_sse42) return crc32c_sse42(crc, octets, length);
#elif defined(__ARM_FEATURE_CRC32)
  const uint8_t *p = octets;
  for (; length >= 8; p += 8, length -= 8) crc = __crc32cd(crc, load64(p));
  for (; length; p++, length--) crc = __crc32cb(crc, *p);
  return crc;
#endif
  return kalsae_crc32c_portable(crc, octets, length);
}

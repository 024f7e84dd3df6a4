#pragma once
// What the loops of the fast path share: octets of packets, which need not be aligned, and the columns of `PlainPackets`.
#include <string.h>

#include "CDataplane.h"

#define INLINE static inline __attribute__((always_inline))
#define unlikely(x) __builtin_expect(!!(x), 0)

enum { HASHES = 0, WORDS = kalsae_column_length, MARKS = 2 * kalsae_column_length, LISTED = 3 * kalsae_column_length };

INLINE uint16_t load16(const void *p) {
  uint16_t value;
  memcpy(&value, p, sizeof value);
  return value;
}
INLINE uint32_t load32(const void *p) {
  uint32_t value;
  memcpy(&value, p, sizeof value);
  return value;
}
INLINE uint64_t load64(const void *p) {
  uint64_t value;
  memcpy(&value, p, sizeof value);
  return value;
}

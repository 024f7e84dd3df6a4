#pragma once
// `static inline` shims of the hot path: they inline completely inside the module that imports them.
#include <stddef.h>
#include <stdint.h>

#include "memory_shim.h"
#include "plain_read.h"
#include "plain_send.h"

/// Asks for the cache line of `p` to be read.
static inline void kalsae_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
/// Asks for the cache line of `p` to be written.
static inline void kalsae_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

/// The sum of the 16-bit words of `length` octets as they lie in memory, folded to at most 33 bits; an odd last octet is
/// padded with a zero octet.
uint64_t kalsae_sum(const void *octets, size_t length);
/// The same without instructions that only some processors have.
uint64_t kalsae_sum_portable(const void *octets, size_t length);
/// Copies `length` octets, which must not overlap, and returns their sum as `kalsae_sum` does, in one pass.
uint64_t kalsae_copy_sum(void *to, const void *from, size_t length);
/// Continues a CRC32c (Castagnoli, reflected) over `length` octets. Start with 0xffffffff and invert the result.
uint32_t kalsae_crc32c(uint32_t crc, const void *octets, size_t length);
/// The same without instructions that only some processors have.
uint32_t kalsae_crc32c_portable(uint32_t crc, const void *octets, size_t length);
/// Continues a CRC32c over four zero octets: the place of the checksum itself.
static inline uint32_t kalsae_crc32c_zeros(uint32_t crc) {
  static const uint8_t zeros[4];
  return kalsae_crc32c(crc, zeros, sizeof zeros);
}
/// Whether two runs of `length` octets are equal.
static inline int kalsae_equal(const void *a, const void *b, size_t length) {
  return __builtin_memcmp(a, b, length) == 0;
}
/// Finishes the checksum of a frame whose sender has left that to the device, also in a tunnel: AF_XDP does not say of a frame
/// that it is unfinished, but its field then holds the sum of the pseudo header alone. A finished checksum that happens to be
/// the same is computed once more, to the same. Returns whether something was done.
int kalsae_finish_checksum(uint8_t *frame, uint32_t length);

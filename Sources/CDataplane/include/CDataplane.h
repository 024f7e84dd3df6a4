#pragma once
// `static inline` shims of the hot path: they inline completely inside the module that imports them.
#include <stddef.h>
#include <stdint.h>

#include "memory_shim.h"

/// Asks for the cache line of `p` to be read.
static inline void kalsae_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
/// Asks for the cache line of `p` to be written.
static inline void kalsae_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

/// The sum of the 16-bit words of `length` octets as they lie in memory, folded to at most 33 bits; an odd last octet is
/// padded with a zero octet.
uint64_t kalsae_sum(const void *octets, size_t length);

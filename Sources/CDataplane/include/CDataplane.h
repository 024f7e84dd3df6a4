#pragma once
// `static inline` shims of the hot path: they inline completely inside the module that imports them.
#include <stddef.h>
#include <stdint.h>

#include "memory_shim.h"

/// Asks for the cache line of `p` to be read.
static inline void kalsae_prefetch(const void *p) { __builtin_prefetch(p, 0, 3); }
/// Asks for the cache line of `p` to be written.
static inline void kalsae_prefetch_write(const void *p) { __builtin_prefetch(p, 1, 3); }

#pragma once
#include <stdint.h>

// Counts what the C library and the Swift runtime are asked for by the whole program. Only for programs with one
// thread that are made for this: linking it replaces malloc and its kin.

typedef struct {
  uint64_t allocations;
  uint64_t frees;
  /// Objects that the Swift runtime made; their memory is among the allocations too.
  uint64_t objects;
  uint64_t retains;
  uint64_t releases;
} kalsae_counts;

/// Starts to count from 0. The Swift runtime (6.3) fails with strings while it is watched: only the hot loop may run
/// until the counting stops.
void kalsae_counting_start(void);
/// Stops, and gives what was counted.
kalsae_counts kalsae_counting_stop(void);

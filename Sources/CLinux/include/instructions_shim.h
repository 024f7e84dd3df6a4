#pragma once
// The processor's instruction counter, for benchmarks.
#include <stdint.h>

/// Opens a stopped counter of the calling thread's instructions in user space; -1 where there is none.
int kalsae_instructions_open(void);
/// Lets the counter run, or stops it.
void kalsae_instructions_run(int descriptor, int runs);
/// What it has counted.
uint64_t kalsae_instructions_read(int descriptor);

#pragma once
// Whether there is what stands for AVX-512: SIMDe, and the instructions that it makes do with.
#if defined(__AVX2__) && defined(__BMI2__) && __has_include(<simde/x86/avx512.h>)
#define KALSAE_IS_EMULATED 1
/// What plain_eights.h takes instead of the processor's instructions.
#define KALSAE_VECTORS "emulated_vectors.h"
#else
#define KALSAE_IS_EMULATED 0
#endif

#pragma once
// What both families' readers of four frames at a time share.
#include "plain_fours.h"

#if defined(__x86_64__)
enum { CHECKSUM_PARTIAL = 1, CHECKSUM_VERIFIED = 2, TRUNCATED = 8, TCP = 6, UDP = 17, ETHERNET = 14 };

/// Of four frames, word by word: where they begin in memory; place in the buffer and length; capacity, port, flags.
struct frames4 {
  quad buffer, span, state;
};

FINLINE struct frames4 frames_at(const struct kalsae_frame *frame) {
  const quad a = load4(frame), b = load4(frame + 1), c = load4(frame + 2), d = load4(frame + 3);
  const quad even = __builtin_shufflevector(a, b, 0, 4, 2, 6), odd = __builtin_shufflevector(a, b, 1, 5, 3, 7);
  const quad next = __builtin_shufflevector(c, d, 0, 4, 2, 6), last = __builtin_shufflevector(c, d, 1, 5, 3, 7);
  return (struct frames4){
      .buffer = __builtin_shufflevector(even, next, 0, 1, 4, 5),
      .span = __builtin_shufflevector(odd, last, 0, 1, 4, 5),
      .state = __builtin_shufflevector(even, next, 2, 3, 6, 7),
  };
}

/// Of four rows of memory, bits that differ from `value`, together.
FINLINE quad differ4(const uint64_t at[4], ptrdiff_t offset, quad value) {
  quad sum = load4((const void *)(at[0] + offset)) ^ value;
  for (int i = 1; i < 4; i++) sum |= load4((const void *)(at[i] + offset)) ^ value;
  return sum;
}

/// Asks for the slots of four packets' flows.
INLINE void ask_for_flows4(const char *slots, const uint64_t *places) {
  for (int i = 0; i < 4; i++) kalsae_prefetch_write(slots + places[i]);
}

/// The same for IPv6, whose slots are two cache lines.
INLINE void ask_for_flows6(const char *slots, const uint64_t *places) {
  for (int i = 0; i < 4; i++) kalsae_prefetch_write(slots + places[i]), kalsae_prefetch_write(slots + places[i] + 64);
}

/// Which of four packets, of whose keys these are the last words, have an excluded destination port.
FINLINE quad excluded4(const struct kalsae_plain *plain, quad tail) {
  const quad port = tail >> 16 & four(0xffff);
  return same(port, four(plain->excluded[0])) | same(port, four(plain->excluded[1]));
}

/// Which of four frames have a partial checksum.
FINLINE quad are_partial(quad state) {
  return same(state & four((uint64_t)CHECKSUM_PARTIAL << 48), four((uint64_t)CHECKSUM_PARTIAL << 48));
}

/// Which of four partial checksums are not those of the transport headers that begin at `start`, or have to be elsewhere.
FINLINE quad misplaced4(const struct kalsae_frame *frame, quad start, quad tcp) {
  quad field;
  for (int i = 0; i < 4; i++) field[i] = load64(&frame[i].checksum_start);
  const quad expected = start + choose(tcp, four((uint64_t)16 << 32), four((uint64_t)6 << 32));
  return same((field ^ expected) & four(0xffffffffffff), four(0)) ^ four(UINT64_MAX);
}

#endif

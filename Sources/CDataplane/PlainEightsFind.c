#include "plain_eights.h"
#include "plain_singly.h"

#if defined(__x86_64__)
/// Finds the flows of the first packets of the list, in groups of eight without others between; returns the place behind them.
VECTOR size_t kalsae_plain_find_eights(const struct kalsae_search *search, size_t count) {
  const struct kalsae_search s = *search;
  const __m512i mask = all(s.slot_count - 1);
  const char *slots = s.slots;
  // What is not where it should be first: further on, or not there.
  uint8_t elsewhere[kalsae_part_length + 8];
  size_t number = 0, last = 0;
  for (; number + 8 <= count && number < kalsae_part_length; number += 8) {
    const size_t index = s.packets[number];
    // They are in order: without gaps where the last is as near as it can be.
    if (s.packets[number + 7] - index != 7) break;
    const __m512i place = _mm512_and_si512(load8(s.columns + HASHES + index), mask);
    store8(s.columns + SLOTS + index, _mm512_add_epi64(_mm512_slli_epi64(place, 6), all((uint64_t)slots)));
    store8(
        s.columns + LISTED + s.start + number,
        _mm512_or_si512(_mm512_slli_epi64(place, 8), _mm512_add_epi64(all(index), numbers())));
    uint64_t at[8];
    for (int i = 0; i < 8; i++) at[i] = (uint64_t)slots + ((s.columns[HASHES + index + i] & (s.slot_count - 1)) << 6);
    const char *sought = (const char *)s.keys + sizeof(uint64_t[2]) * index;
    uint32_t differs = _mm512_cmpneq_epi64_mask(four_next(at), load8(sought));
    differs |= (uint32_t)_mm512_cmpneq_epi64_mask(four_next(at + 4), load8(sought + 64)) << 8;
    for (int i = 0; i < 8; i++) {
      const struct kalsae_hop *hop = s.hops + load32((const char *)at[i] + HOP);
      kalsae_prefetch((const char *)hop + 64);
      if (s.has_tunnels) { kalsae_prefetch(hop); kalsae_prefetch_write((const char *)s.columns[PLACES + index + i] - 64); }
      s.columns[HOPS + index + i] = (uint64_t)hop;
    }
    const __m128i which = _mm_add_epi8(_mm_set1_epi8((char)number), _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0));
    const __mmask16 lanes = (__mmask16)_pext_u32(differs | differs >> 1, 0x5555);
    _mm_storel_epi64((__m128i *)(elsewhere + last), _mm_maskz_compress_epi8(lanes, which));
    last += (size_t)__builtin_popcount(lanes);
  }
  // Most of them are in the next slot; all are asked for before the first is looked at.
  for (size_t i = 0; i < last; i++) {
    const size_t next = (s.columns[HASHES + s.packets[elsewhere[i]]] + 1) & (s.slot_count - 1);
    kalsae_prefetch_write((const struct kalsae_slot4 *)slots + next);
  }
  for (size_t i = 0; i < last; i++) find_one(&s, elsewhere[i], 0, s.has_tunnels);
  return number;
}
#endif

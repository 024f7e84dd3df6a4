#include "plain_fours.h"
#include "plain_singly.h"

#if defined(__x86_64__)
/// `kalsae_peer_place` of four addresses, and where that is.
FINLINE quad peer_places(quad source, const uint64_t *words, __m128i shift) {
  const uint64_t factor = UINT64_C(0x9e3779b97f4a7c15);
  const quad product = multiply(source, four((uint32_t)factor)) + (multiply(source, four(factor >> 32)) << 32);
  return four((uint64_t)words) + ((quad)_mm256_srl_epi64((__m256i)product, shift) << 4);
}

/// `trust_one` for eight packets at a time by vectors of 256 bits; returns the place of the first of which that is not so, or
/// that is left because there are not eight.
FOURS static size_t trust_fours(
    const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
  uint64_t *const columns = plain->columns;
  const __m128i shift = _mm_cvtsi32_si128((int)peers->shift);
  const eight bit = each((uint32_t)(peers->bit >> 32));
  for (; first + 8 <= end; first += 8) {
    uint64_t *const sources = columns + LISTED + first, *const marks = columns + MARKS + first;
    const quad front = low(load4(sources)), back = low(load4(sources + 4));
    uint64_t at[8];
    store4(at, peer_places(front, peers->words, shift));
    store4(at + 4, peer_places(back, peers->words, shift));
    const struct words8 pair = words8_at(at, 0);
    const eight source = halves(front, back, 0), is_other = same8(pair.word[2], source);
    const eight known = (eight)choose((quad)is_other, (quad)pair.word[3], (quad)pair.word[1]);
    // What the device has verified is seen to singly, and who is further on in the table, or not there.
    const eight good = (same8(pair.word[0], source) | is_other) & same8(known & bit, bit)
        & same8(halves_at(marks, 0) & each((uint32_t)VERIFIED), each(0));
    const eight peer = good & known & each(0xffff);
    store4(marks, load4(marks) | woven(each(0), peer, 0));
    store4(marks + 4, load4(marks + 4) | woven(each(0), peer, 1));
    for (unsigned rest = highest8(good) ^ 0xff; rest; rest &= rest - 1) {
      const size_t index = first + (size_t)__builtin_ctz(rest);
      if (!trust_one(plain, peers, index)) return index;
    }
  }
  return first;
}
#endif

size_t kalsae_plain_trust(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
#if defined(__x86_64__)
  if (plain->lanes == 8) first = kalsae_eights.trust(plain, peers, first, end);
  if (plain->lanes == 4) first = trust_fours(plain, peers, first, end);
#endif
  while (first < end && trust_one(plain, peers, first)) first++;
  return first;
}

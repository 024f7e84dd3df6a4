#include "plain_eights.h"
#include "plain_singly.h"

#if defined(__x86_64__)
/// `trust_one` for eight packets at a time; returns the place of the first of which that is not so, or that is left because
/// there are not eight.
VECTOR size_t kalsae_plain_trust_eights(
    const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
  for (; first + 8 <= end; first += 8) {
    uint64_t at[8];
    for (int i = 0; i < 8; i++) {
      at[i] = (uint64_t)(peers->words + kalsae_peer_place(source_of(plain, first + (size_t)i), peers->shift));
    }
    const __m512i source = load8(plain->columns + LISTED + first);
    __m512i word, other;
    words_at(at, 0, &word, &other);
    const __mmask8 is_other = _mm512_cmpeq_epi64_mask(low_half(other), source);
    word = _mm512_mask_mov_epi64(word, is_other, other);
    __mmask8 good = _mm512_cmpeq_epi64_mask(low_half(word), source);
    good = _mm512_mask_test_epi64_mask(good, word, all(peers->bit));
    uint64_t *marks = plain->columns + MARKS + first;
    const __m512i mark = load8(marks);
    // What the device has verified is seen to singly, and who is further on in the table, or not there.
    good = _mm512_mask_testn_epi64_mask(good, mark, all(VERIFIED));
    store8(marks, _mm512_mask_or_epi64(mark, good, mark, _mm512_and_si512(word, all((uint64_t)0xffff << 32))));
    for (unsigned rest = (uint8_t)~good; rest; rest &= rest - 1) {
      const size_t index = first + (size_t)__builtin_ctz(rest);
      if (!trust_one(plain, peers, index)) return index;
    }
  }
  return first;
}
#endif

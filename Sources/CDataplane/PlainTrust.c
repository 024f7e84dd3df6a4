#include "plain_octets.h"
#include "plain_fours.h"
#include "plain_eights.h"

enum { CHECKSUM_VERIFIED = 2 };

/// Where the outer header says that a packet came from.
INLINE uint32_t source_of(const struct kalsae_plain *plain, size_t index) {
  return (uint32_t)plain->columns[LISTED + index];
}

/// Notes which peer a packet came from. Whether there is one that may send so.
INLINE int trust_one(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t index) {
  const uint32_t source = source_of(plain, index);
  size_t place = kalsae_peer_place(source, peers->shift);
  // Not all words are in use.
  while (peers->words[place] && (uint32_t)peers->words[place] != source) place = (place + 1) & (peers->count - 1);
  const uint64_t word = peers->words[place];
  if (!(word & peers->bit)) return 0;
  uint64_t *mark = plain->columns + MARKS + index;
  // What the device said about checksums was about the outer packet.
  if (*mark & VERIFIED) plain->frames[index].flags &= (uint8_t)~CHECKSUM_VERIFIED;
  *mark = (*mark & ~VERIFIED) | (word & (uint64_t)0xffff << 32);
  return 1;
}

#if defined(__x86_64__)
/// The same for eight packets at a time; returns the place of the first of which that is not so, or that is left because
/// there are not eight.
VECTOR static size_t trust_eights(
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

/// The same for four packets at a time.
FOURS static size_t trust_fours(
    const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
  const uint64_t *const words = peers->words;
  uint64_t *const columns = plain->columns;
  const uint32_t shift = peers->shift;
  const quad bit = four(peers->bit);
  for (; first + 4 <= end; first += 4) {
    uint64_t at[4];
    for (size_t i = 0; i < 4; i++) {
      at[i] = (uint64_t)(words + kalsae_peer_place((uint32_t)columns[LISTED + first + i], shift));
    }
    const quad source = load4(columns + LISTED + first), mark = load4(columns + MARKS + first);
    quad word, other;
    pairs_at(at, 0, &word, &other);
    word = choose(same(low(other), source), other, word);
    // What the device has verified is seen to singly, and who is further on in the table, or not there.
    const quad good = same(low(word), source) & same(word & bit, bit) & same(mark & four(VERIFIED), four(0));
    store4(columns + MARKS + first, mark | (good & word & four((uint64_t)0xffff << 32)));
    for (unsigned rest = highest(good) ^ 0xf; rest; rest &= rest - 1) {
      const size_t index = first + (size_t)__builtin_ctz(rest);
      if (!trust_one(plain, peers, index)) return index;
    }
  }
  return first;
}
#endif

size_t kalsae_plain_trust(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
#if defined(__x86_64__)
  if (plain->lanes == 8) first = trust_eights(plain, peers, first, end);
  if (plain->lanes == 4) first = trust_fours(plain, peers, first, end);
#endif
  while (first < end && trust_one(plain, peers, first)) first++;
  return first;
}

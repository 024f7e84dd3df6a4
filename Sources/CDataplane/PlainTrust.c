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

/// `kalsae_peer_place` of four addresses, and where that is.
FINLINE quad peer_places(quad source, const uint64_t *words, __m128i shift) {
  const uint64_t factor = UINT64_C(0x9e3779b97f4a7c15);
  const quad product = multiply(source, four((uint32_t)factor)) + (multiply(source, four(factor >> 32)) << 32);
  return four((uint64_t)words) + ((quad)_mm256_srl_epi64((__m256i)product, shift) << 4);
}

/// The same for eight packets at a time by vectors of 256 bits.
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
  if (plain->lanes == 8) first = trust_eights(plain, peers, first, end);
  if (plain->lanes == 4) first = trust_fours(plain, peers, first, end);
#endif
  while (first < end && trust_one(plain, peers, first)) first++;
  return first;
}

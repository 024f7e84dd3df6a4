#include "plain_octets.h"
#include "plain_vector.h"

enum { CHECKSUM_VERIFIED = 2 };

/// Notes which peer a packet came from. Whether there is one that may send so.
INLINE int trust_one(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t index) {
  const size_t mask = peers->slot_count - 1;
  const uint64_t source = __builtin_bswap32((uint32_t)plain->columns[HASHES + index]);
  size_t place = kalsae_mix((uint64_t)peers->tag << 32, source) & mask;
  // Not all slots are in use.
  while (peers->slots[place].tag && (peers->slots[place].low != source || peers->slots[place].tag != peers->tag)) {
    place = (place + 1) & mask;
  }
  const uint64_t peer = peers->slots[place].value;
  if (!peers->slots[place].tag || peer >= peers->count || !(peers->encapsulations[peer] & peers->bit)) return 0;
  uint64_t *mark = plain->columns + MARKS + index;
  // What the device said about checksums was about the outer packet.
  if (*mark & VERIFIED) plain->frames[index].flags &= (uint8_t)~CHECKSUM_VERIFIED;
  *mark = (*mark & ~VERIFIED) | (peer & 0xffff) << 32;
  return 1;
}

#if defined(__x86_64__)
/// The same for eight packets at a time; returns the place of the first of which that is not so, or that is left because
/// there are not eight.
VECTOR static size_t trust_vector(
    const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
  const __m512i swapped = _mm512_set4_epi32((int)0x80808080, 0x08090a0b, (int)0x80808080, 0x00010203);
  const __m512i mask = all(peers->slot_count - 1), tag = all((uint64_t)peers->tag << 32);
  const char *slots = (const char *)peers->slots;
  for (; first + 8 <= end; first += 8) {
    const __m512i source = _mm512_shuffle_epi8(load8(plain->columns + HASHES + first), swapped);
    const __m512i place = _mm512_and_si512(mix(tag, source), mask);
    const __m512i at = _mm512_add_epi64(_mm512_slli_epi64(place, 4), _mm512_slli_epi64(place, 3));
    const __m512i low = _mm512_i64gather_epi64(at, slots + offsetof(struct kalsae_peer_slot, low), 1);
    const __m512i found = _mm512_i64gather_epi64(at, slots + offsetof(struct kalsae_peer_slot, tag), 1);
    const __m512i peer = high_half(found);
    __mmask8 good = _mm512_cmpeq_epi64_mask(low, source);
    good = _mm512_mask_cmpeq_epi64_mask(good, low_half(found), all(peers->tag));
    good = _mm512_mask_cmplt_epu64_mask(good, peer, all(peers->count));
    const __m256i ways = _mm512_mask_i64gather_epi32(_mm256_setzero_si256(), good, peer, peers->encapsulations, 4);
    good = _mm256_mask_test_epi32_mask(good, ways, _mm256_set1_epi32((int)peers->bit));
    uint64_t *marks = plain->columns + MARKS + first;
    const __m512i mark = load8(marks), from = _mm512_slli_epi64(_mm512_and_si512(peer, all(0xffff)), 32);
    // What the device has verified is seen to singly, and who is not where it should be first, or not there.
    good = _mm512_mask_testn_epi64_mask(good, mark, all(VERIFIED));
    store8(marks, _mm512_mask_or_epi64(mark, good, mark, from));
    for (unsigned rest = (uint8_t)~good; rest; rest &= rest - 1) {
      const size_t index = first + (size_t)__builtin_ctz(rest);
      if (!trust_one(plain, peers, index)) return index;
    }
  }
  return first;
}
#else
static size_t trust_vector(
    const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
  (void)plain, (void)peers, (void)end;
  return first;
}
#endif

size_t kalsae_plain_trust(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end) {
  if (plain->uses_vectors && kalsae_plain_vector()) first = trust_vector(plain, peers, first, end);
  while (first < end && trust_one(plain, peers, first)) first++;
  return first;
}

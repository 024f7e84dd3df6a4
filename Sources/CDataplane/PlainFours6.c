#include "plain_fours_read.h"

#if defined(__x86_64__)
/// Total length in the machine's byte order (17 bits), and from bit 52 on the traffic class (8 bits).
FINLINE quad total_and_class6(quad first) {
  const __m256i places = _mm256_set_epi32(
      (int)0x08098080, (int)0x80800c0d, (int)0x00018080, (int)0x80800405, (int)0x08098080, (int)0x80800c0d,
      (int)0x00018080, (int)0x80800405);
  return (quad)_mm256_shuffle_epi8((__m256i)first, places) + four(40);
}

// (A group with a packet that is not plain is left to be read singly: that is rare.)
FINLINE size_t parse6(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint64_t offset = is_tunnel ? plain->offset : ETHERNET;
  const struct admission4 entry = admission(plain, offset, offset + 48, is_tunnel ? CHECKSUM_PARTIAL : 0);
  const struct pattern4 pattern = pattern_of(plain, is_tunnel);
  const quad slot_mask = four((plain->slot_count - 1) * sizeof(struct kalsae_slot6));
  // In registers: what is written could be the structure, for all that the compiler knows.
  uint64_t *const columns = plain->columns;
  char *const keys = (char *)plain->keys;
  struct kalsae_frame *const frames = plain->frames;
  const char *const slots = plain->slots;
  const quad mark_start = four(plain->mark), tail = four(plain->tail);
  const int excludes = plain->excludes;
  const size_t begin = first;
  for (; first + 4 <= end; first += 4) {
    struct kalsae_frame *frame = frames + first;
    const struct frames4 f = frames_at(frame);
    uint64_t at[4];
    if (!admit4(&entry, frame, f, at)) break;
    const quad start = low(f.span), length = f.span >> 32;
    if (!begin_so(&pattern, at, is_tunnel)) break;
    // The header, word by word, and what is behind it.
    quad word, source[2], destination[2], ports;
    const ptrdiff_t header = (ptrdiff_t)offset;
    pairs_at(at, header, &word, &source[0]);
    pairs_at(at, header + 16, &source[1], &destination[0]);
    pairs_at(at, header + 32, &destination[1], &ports);
    struct outer4 outer = {.room = length - four(offset)};
    if (is_tunnel) {
      if (any(word ^ four(0x60), four(0xf0))) break;
      outer = outer_of(plain, at, length, offset, columns + LISTED + first);
    }
    const quad sizes = total_and_class6(word), total = sizes & four(0x1ffff);
    const quad transport = word >> 16 & four((uint64_t)0xff << 32);
    const quad tcp = same(transport, four((uint64_t)TCP << 32)), udp = same(transport, four((uint64_t)UDP << 32));
    quad bad = (outer.room - total) | (total - four(48)) | (four(0xffff) - total);
    bad |= outer.bad | same(word & four((uint64_t)0xfe << 56), four(0));
    bad |= ~(tcp | udp) | (tcp & (total - four(60)));
    if (unlikely(highest(bad))) break;
    quad mark = mark_start | total | (sizes >> 4 & four((uint64_t)0xff << 48));
    if (is_tunnel) {
      mark |= verified4(f.state);
      bad = carried_over(plain, outer, mark, word >> 56);
      if (unlikely(highest(bad))) break;
    }
    if (any(tcp, tcp)) {
      // What opens and closes connections changes more than counts. The octet with the flags is the last of eight; of others
      // eight that are there.
      quad flags;
      for (int i = 0; i < 4; i++) {
        flags[i] = load64((const uint8_t *)at[i] + header + (tcp[i] ? 46 : 0));
      }
      flags &= tcp;
      if (any(flags, four((uint64_t)7 << 56))) break;
      mark |= flags & four((uint64_t)0xff << 56);
    }
    // Ports; transport; what keys have besides.
    const quad rest = low(ports) | transport | tail;
    if (!is_tunnel && excludes && any(udp, excluded4(plain, rest))) break;
    if (!is_tunnel && unlikely(any(f.state, four((uint64_t)CHECKSUM_PARTIAL << 48)))) {
      const quad partial = are_partial(f.state);
      if (any(partial, misplaced4(frame, start + four(ETHERNET + 40), tcp))) break;
      mark |= partial & four((uint64_t)1 << 31);
    }
    store4(columns + WORDS + first, word);
    store4(columns + MARKS + first, mark);
    store4(columns + SPANS + first, f.span);
    store4(columns + PLACES + first, f.buffer + start + four(offset));
    for (int i = 0; i < 4; i++) {
      char *key = keys + sizeof(uint64_t[5]) * (first + (size_t)i);
      const uint64_t last = rest[i];
      store4(key, load4((const void *)(at[i] + offset + 8)));
      memcpy(key + 32, &last, sizeof last);
    }
    const quad hash = mix4(mix4(source[0], source[1]), mix4(destination[0], destination[1]) ^ rest);
    store4(columns + HASHES + first, hash);
    store4(columns + SLOTS + first, hash << 7 & slot_mask);
    // Those of the packets before: what has just been written together is not to be read singly.
    if (first >= begin + 4) ask_for_flows6(slots, columns + SLOTS + first - 4);
  }
  if (first > begin) ask_for_flows6(slots, columns + SLOTS + first - 4);
  return first;
}

FOURS size_t kalsae_plain_read6_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse6(plain, first, end, 0);
}

FOURS size_t kalsae_plain_unwrap6_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse6(plain, first, end, 1);
}
#endif

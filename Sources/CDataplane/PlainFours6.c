#include "plain_fours_read.h"

#if defined(__x86_64__)
/// Total length in the machine's byte order, and from bit 52 on the traffic class; between them nothing.
FINLINE quad total_and_class6(quad first) {
  const __m256i places = _mm256_set_epi32(
      (int)0x08098080, (int)0x80800c0d, (int)0x00018080, (int)0x80800405, (int)0x08098080, (int)0x80800c0d,
      (int)0x00018080, (int)0x80800405);
  return (quad)_mm256_shuffle_epi8((__m256i)first, places) + four(40);
}

// (A group with a packet that is not plain is left to be read singly: that is rare.)
FOURS size_t kalsae_plain_read6_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  // Frames that are neither to be cut nor cut off, and have their port.
  const quad state = four((uint64_t)plain->port << 32);
  const uint64_t cut = (uint64_t)(0xff00 | TRUNCATED) << 48;
  const quad state_mask = four(cut | (uint64_t)0xffff << 32);
  // What frames begin with: the Ethernet header and the version.
  uint8_t row[32] = {0}, row_mask[32] = {0};
  memcpy(row, (const char *)plain->outer + 2, 22);
  memcpy(row_mask, (const char *)plain->outer_mask + 2, 22);
  const quad begins = load4(row), begins_mask = load4(row_mask);
  const quad slot_mask = four((plain->slot_count - 1) * sizeof(struct kalsae_slot6));
  // In registers: what is written could be the structure, for all that the compiler knows.
  uint64_t *const columns = plain->columns;
  char *const keys = (char *)plain->keys;
  struct kalsae_frame *const frames = plain->frames;
  const char *const slots = plain->slots;
  const quad mark_start = four(plain->mark), tail = four(plain->tail), roomy = four((uint64_t)ETHERNET - plain->room);
  const int excludes = plain->excludes;
  const size_t begin = first;
  for (; first + 4 <= end; first += 4) {
    struct kalsae_frame *frame = frames + first;
    const struct frames4 f = frames_at(frame);
    // What is read must be there: the octets that count by the length, the rest by the buffer's size.
    const quad start = low(f.span), room = (f.span >> 32) - four(ETHERNET);
    // Lanes with the highest bit are not plain: small numbers that are less than they should be have it.
    quad bad = (start + roomy) | (low(f.state) - (start + four(ETHERNET + 48)));
    if (unlikely(any(f.state ^ state, state_mask))) {
      bad |= same(f.state & four(cut), four(0)) ^ four(UINT64_MAX);
      if (!highest(bad)) for (int i = 0; i < 4; i++) frame[i].port = plain->port;
    }
    if (unlikely(highest(bad))) break;

    uint64_t at[4];
    // (Read singly: to take them out of vectors takes longer.)
    const struct kalsae_frame *one = frame;
    __asm__("" : "+r"(one));
    for (int i = 0; i < 4; i++) at[i] = (uint64_t)one[i].buffer + one[i].start;
    if (any(differ4(at, 0, begins), begins_mask)) break;
    // The header, word by word, and what is behind it.
    quad word, source[2], destination[2], ports;
    pairs_at(at, ETHERNET, &word, &source[0]);
    pairs_at(at, ETHERNET + 16, &source[1], &destination[0]);
    pairs_at(at, ETHERNET + 32, &destination[1], &ports);
    const quad sizes = total_and_class6(word), total = sizes & four(0x1ffff);
    const quad transport = word >> 16 & four((uint64_t)0xff << 32);
    const quad tcp = same(transport, four((uint64_t)TCP << 32)), udp = same(transport, four((uint64_t)UDP << 32));
    bad = (room - total) | (total - four(48)) | (four(0xffff) - total) | same(word & four((uint64_t)0xfe << 56), four(0));
    bad |= ~(tcp | udp) | (tcp & (total - four(60)));
    if (unlikely(highest(bad))) break;
    quad mark = mark_start | total | (sizes >> 4 & four((uint64_t)0xff << 48));
    if (any(tcp, tcp)) {
      // What opens and closes connections changes more than counts. The octet with the flags is the last of eight; of others
      // eight that are there.
      quad flags;
      for (int i = 0; i < 4; i++) {
        flags[i] = load64((const uint8_t *)at[i] + (octet((const void *)at[i], ETHERNET + 6) == TCP ? ETHERNET + 46 : ETHERNET));
      }
      flags &= tcp;
      if (any(flags, four((uint64_t)7 << 56))) break;
      mark |= flags & four((uint64_t)0xff << 56);
    }
    // Ports; transport; what keys have besides.
    const quad rest = low(ports) | transport | tail;
    if (excludes && any(udp, excluded4(plain, rest))) break;
    if (unlikely(any(f.state, four((uint64_t)CHECKSUM_PARTIAL << 48)))) {
      const quad partial = are_partial(f.state);
      if (any(partial, misplaced4(frame, start + four(ETHERNET + 40), tcp))) break;
      mark |= partial & four((uint64_t)1 << 31);
    }
    store4(columns + WORDS + first, word);
    store4(columns + MARKS + first, mark);
    store4(columns + SPANS + first, f.span);
    store4(columns + PLACES + first, f.buffer + start + four(ETHERNET));
    for (int i = 0; i < 4; i++) {
      char *key = keys + sizeof(uint64_t[5]) * (first + (size_t)i);
      const uint64_t last = rest[i];
      store4(key, load4((const void *)(at[i] + ETHERNET + 8)));
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
#endif

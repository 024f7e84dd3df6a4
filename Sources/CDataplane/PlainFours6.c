#include "plain_fours_read.h"

#if defined(__x86_64__)
enum { IPV6 = 40 };

// (A group with a packet that is not plain is left to be read singly: that is rare.)
FINLINE size_t parse6(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint32_t offset = is_tunnel ? plain->offset : ETHERNET;
  const struct admission8 entry = admission(plain, offset, offset + IPV6 + 8, is_tunnel);
  const struct pattern4 pattern = pattern_of(plain, is_tunnel);
  const quad slot_mask = four((plain->slot_count - 1) * sizeof(struct kalsae_slot6));
  // In registers: what is written could be the structure, for all that the compiler knows.
  uint64_t *const columns = plain->columns;
  char *const keys = (char *)plain->keys;
  struct kalsae_frame *const frames = plain->frames;
  const char *const slots = plain->slots;
  const eight mark_start = each((uint32_t)plain->mark), tail = each((uint32_t)(plain->tail >> 32)), headers = each(offset);
  const int excludes = plain->excludes;
  const struct constants *k = &constants;
  __asm__("" : "+r"(k));
  const size_t begin = first;
  for (; first + 8 <= end; first += 8) {
    struct kalsae_frame *frame = frames + first;
    struct frames8 f;
    if (unlikely(!admit8(&entry, frame, &f))) break;
    store_woven(columns + SPANS + first, f.start, f.length);
    const uint64_t *const places = columns + PLACES + first;
    if (!begin_so(&pattern, frame, offset, is_tunnel, columns + PLACES + first)) break;
    // The header, 64 bits by 64 bits, and what is behind it.
    quad word[2], source[2][2], destination[2][2], behind[2];
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) {
      pairs_at(places + 4 * i, 0, &word[i], &source[i][0]);
      pairs_at(places + 4 * i, 16, &source[i][1], &destination[i][0]);
      pairs_at(places + 4 * i, 32, &destination[i][1], &behind[i]);
    }
    // (Lanes as `halves` has them.)
    const eight start = halves(word[0], word[1], 0), next = halves(word[0], word[1], 1);
    struct outer8 outer = {.room = f.length - headers};
    if (is_tunnel) {
      if (any8(start ^ each(0x60), each(0xf0))) break;
      outer = outer_of(k, plain, places, f.length, offset, columns + LISTED + first);
    }
    const eight total = lower_number(k, next) + each(IPV6);
    // It lies across two octets.
    const eight class = ((start & each(0x0f)) << 20) | ((start & each(0xf000)) << 4);
    const eight transport = next & each(0xff0000);
    const eight tcp = same8(transport, each(TCP << 16)), udp = same8(transport, each(UDP << 16));
    eight bad = outer.bad | (outer.room - total) | (total - each(IPV6 + 8)) | (each(0xffff) - total) | ~(tcp | udp);
    bad |= same8(next & each(0xfe000000), each(0)) | (tcp & (total - each(IPV6 + 20)));
    eight mark = mark_start | total, upper = class;
    if (is_tunnel) {
      mark |= verified8(f.state);
      bad |= carried_over(k, plain, outer, class, next >> 24);
    }
    if (unlikely(is_any_high(bad))) break;
    const eight ports = halves(behind[0], behind[1], 0);
    if (any8(tcp, tcp)) {
      // What opens and closes connections changes more than counts. The octet with the flags is the last of four; of others
      // four that are there.
      eight flags;
      for (int i = 0; i < 8; i++) flags[i] = load32((const char *)places[packet_in[i]] + (tcp[i] ? IPV6 + 10 : 0));
      flags &= tcp;
      if (any8(flags, each((uint32_t)7 << 24))) break;
      upper |= flags & each((uint32_t)0xff << 24);
    }
    if (!is_tunnel && excludes && any8(udp, excluded8(plain, ports))) break;
    if (!is_tunnel && unlikely(any8(f.state, each(CHECKSUM_PARTIAL << 16)))) {
      const eight partial = are_partial(f.state);
      if (any8(partial, misplaced8(frame, f.start + each(ETHERNET + IPV6), tcp))) break;
      mark |= partial & each((uint32_t)1 << 31);
    }
    store4(columns + WORDS + first, word[0]);
    store4(columns + WORDS + first + 4, word[1]);
    store_woven(columns + MARKS + first, mark, upper);
    // Ports; transport; what keys have besides.
    const eight rest = transport >> 16 | tail;
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) {
      const size_t place = first + 4 * (size_t)i;
      const quad last = woven(ports, rest, i);
      for (int n = 0; n < 4; n++) {
        char *key = keys + sizeof(uint64_t[5]) * (place + (size_t)n);
        const uint64_t tail_word = last[n];
        store4(key, load4((const char *)places[4 * i + n] + 8));
        memcpy(key + 32, &tail_word, sizeof tail_word);
      }
      const quad hash = mix4(mix4(source[i][0], source[i][1]), mix4(destination[i][0], destination[i][1]) ^ last);
      store4(columns + HASHES + place, hash);
      store4(columns + SLOTS + place, hash << 7 & slot_mask);
      // Those of the packets before: what has just been written together is not to be read singly. (Before the first group of
      // a call it is what lies there: nothing that matters.)
      ask_for_flows(slots, columns + SLOTS + first - 8 + 4 * i, 4, 1);
    }
  }
  if (first > begin) ask_for_flows(slots, columns + SLOTS + first - 8, 8, 1);
  return first;
}

FOURS size_t kalsae_plain_read6_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse6(plain, first, end, 0);
}

FOURS size_t kalsae_plain_unwrap6_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse6(plain, first, end, 1);
}
#endif

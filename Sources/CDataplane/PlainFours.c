#include "plain_fours_read.h"

#if defined(__x86_64__)
FINLINE size_t parse(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint32_t offset = is_tunnel ? plain->offset : ETHERNET;
  const struct admission8 entry = admission(plain, offset, offset + 50, is_tunnel);
  const struct pattern4 pattern = pattern_of(plain, is_tunnel);
  const quad slot_mask = four((plain->slot_count - 1) * sizeof(struct kalsae_slot4));
  // In registers: what is written could be the structure, for all that the compiler knows.
  uint64_t *const columns = plain->columns, (*const keys)[2] = plain->keys;
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
    uint64_t *const places = columns + PLACES + first;
    const struct kalsae_frame *const again = apart(frame);
    // (As `begin_so` does, and in the same go what is read of headers: with their places at hand.)
    quad differ = four(0), goes_on = four(0), front[4], back[4];
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++) {
      const int one = packet_in[i], other = one + 2;
      const uint64_t p = begin_of(again + one), q = begin_of(again + other);
      differ |= (load4((const void *)p) ^ pattern.begins) | (load4((const void *)q) ^ pattern.begins);
      if (is_tunnel) {
        goes_on |= load4((const void *)(p + 32)) ^ pattern.goes_on;
        goes_on |= load4((const void *)(q + 32)) ^ pattern.goes_on;
      }
      places[one] = p + offset, places[other] = q + offset;
      front[i] = settled4(two_at(p + offset, q + offset));
      back[i] = settled4(two_at(p + offset + 16, q + offset + 16));
    }
    if (any(differ, pattern.begins_mask)) break;
    if (is_tunnel && any(goes_on, pattern.goes_on_mask)) break;
    // The header; its last word, and what is behind it.
    const struct words8 p = turned(front[0], front[1], front[2], front[3]);
    const struct words8 q = turned(back[0], back[1], back[2], back[3]);
    const eight second = p.word[1], third = p.word[2], ports = q.word[1];
    eight good = settled8(are_intact(k, p.word, q.word[0]));
    struct outer8 outer = {.room = f.length - headers};
    if (is_tunnel) {
      // Version 4, five words; neither "more fragments" nor an offset.
      if (any8(p.word[0] ^ each(0x45), each(0xff)) || any8(second, each(0xff3f0000))) break;
      outer = outer_of(k, plain, places, f.length, offset, columns + LISTED + first);
    }
    const eight total = upper_number(k, p.word[0]), class = p.word[0] << 8 & at_hand(k->class);
    const eight transport = third & at_hand(k->transport);
    const eight tcp = same8(transport, at_hand(k->tcp)), udp = same8(transport, at_hand(k->udp));
    good &= tcp | udp;
    eight bad = outer.bad | (outer.room - total) | (total - each(28));
    bad |= same8(third & at_hand(k->time_to_live), each(0));
    eight mark = total | mark_start, upper = class;
    if (any8(tcp, tcp)) {
      // What opens and closes connections changes more than counts. The octet with the flags is the last of four.
      const eight flags = word8_at(places, 30) & tcp;
      bad |= (tcp & (total - each(40))) | ~same8(flags & each((uint32_t)7 << 24), each(0));
      upper |= flags & each((uint32_t)0xff << 24);
    }
    if (is_tunnel) {
      mark |= verified8(f.state);
      bad |= carried_over(k, plain, outer, class, third & each(0xff));
    } else {
      if (excludes) bad |= udp & excluded8(plain, ports);
      if (unlikely(any8(f.state, each(CHECKSUM_PARTIAL << 16)))) {
        const eight partial = are_partial(f.state);
        bad |= partial & misplaced8(frame, f.start + each(ETHERNET + 20), tcp);
        mark |= partial & each((uint32_t)1 << 31);
      }
    }
    // Those of the packets before: what has just been written together is not to be read singly. A few at a time: together
    // they would wait for each other. (Before the first group of a call it is what lies there: nothing that matters.)
    const uint64_t *const before = columns + SLOTS + first - 8;
    ask_for_flows(slots, before, 2, 0);
    store_woven(columns + WORDS + first, second, third);
    ask_for_flows(slots, before + 2, 2, 0);
    store_woven(columns + MARKS + first, mark, upper);
    // Ports; transport; what keys have besides.
    const eight rest = transport >> 8 | tail;
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; i++) {
      const size_t place = first + 4 * (size_t)i;
      const quad addresses = woven(p.word[3], q.word[0], i), others = woven(ports, rest, i);
      const quad even = settled4(__builtin_shufflevector(addresses, others, 0, 4, 2, 6));
      const quad odd = settled4(__builtin_shufflevector(addresses, others, 1, 5, 3, 7));
      store4(keys + place, (quad)_mm256_permute2x128_si256((__m256i)even, (__m256i)odd, 0x20));
      store4(keys + place + 2, (quad)_mm256_permute2x128_si256((__m256i)even, (__m256i)odd, 0x31));
      const quad hash = mix4(addresses, others);
      store4(columns + HASHES + place, hash);
      store4(columns + SLOTS + place, hash << 6 & slot_mask);
      ask_for_flows(slots, before + 4 + 2 * i, 2, 0);
    }
    good &= ~bad;
    if (unlikely(_mm256_movemask_ps((__m256)good) != 0xff)) {
      ask_for_flows(slots, columns + SLOTS + first, 8, 0);
      return first + (size_t)__builtin_ctz(highest8(~good));
    }
  }
  if (first > begin) ask_for_flows(slots, columns + SLOTS + first - 8, 8, 0);
  return first;
}

FOURS size_t kalsae_plain_read_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 0);
}

FOURS size_t kalsae_plain_unwrap_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 1);
}
#endif

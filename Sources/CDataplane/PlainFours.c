#include "plain_fours_read.h"

#if defined(__x86_64__)
FINLINE size_t parse(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint64_t offset = is_tunnel ? plain->offset : ETHERNET;
  const struct admission4 entry = admission(plain, offset, offset + 50, is_tunnel ? CHECKSUM_PARTIAL : 0);
  const struct pattern4 pattern = pattern_of(plain, is_tunnel);
  const quad slot_mask = four((plain->slot_count - 1) * sizeof(struct kalsae_slot4));
  // In registers: what is written could be the structure, for all that the compiler knows.
  uint64_t *const columns = plain->columns, (*const keys)[2] = plain->keys;
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
    const struct packets4 p = packets_at(at, (ptrdiff_t)offset);
    quad good = are_intact(p);
    struct outer4 outer = {.room = length - four(offset)};
    if (is_tunnel) {
      // Version 4, five words; neither "more fragments" nor an offset.
      if (any((p.first ^ four(0x45)), four(0xff3f0000000000ff))) break;
      outer = outer_of(plain, at, length, offset, columns + LISTED + first);
    }
    const quad sizes = total_and_class(p), total = sizes & four(0xffff);
    const quad transport = p.second & four(0xff00);
    const quad tcp = same(transport, four(TCP << 8)), udp = same(transport, four(UDP << 8));
    good &= tcp | udp;
    quad bad = outer.bad | (outer.room - total) | (total - four(28)) | same(p.second & four(0xfe), four(0));
    quad mark = sizes | mark_start;
    if (any(tcp, tcp)) {
      // What opens and closes connections changes more than counts. The octet with the flags is the last of eight.
      const quad flags = words_of(at, (ptrdiff_t)offset + 26) & tcp;
      bad |= (tcp & (total - four(40))) | (same(flags & four((uint64_t)7 << 56), four(0)) ^ four(UINT64_MAX));
      mark |= flags & four((uint64_t)0xff << 56);
    }
    // Ports; transport; what keys have besides.
    const quad rest = low(p.transport) | transport << 24 | tail;
    if (is_tunnel) {
      mark |= verified4(f.state);
      bad |= carried_over(plain, outer, mark, p.second & four(0xff));
    } else {
      if (excludes) bad |= udp & excluded4(plain, rest);
      if (unlikely(any(f.state, four((uint64_t)CHECKSUM_PARTIAL << 48)))) {
        const quad partial = are_partial(f.state);
        bad |= partial & misplaced4(frame, start + four(ETHERNET + 20), tcp);
        mark |= partial & four((uint64_t)1 << 31);
      }
    }
    store4(columns + WORDS + first, (quad)_mm256_blend_epi32((__m256i)(p.first >> 32), (__m256i)(p.second << 32), 0xaa));
    store4(columns + MARKS + first, mark);
    store4(columns + SPANS + first, f.span);
    store4(columns + PLACES + first, f.buffer + start + four(offset));
    const quad even = __builtin_shufflevector(p.addresses, rest, 0, 4, 2, 6), odd = __builtin_shufflevector(p.addresses, rest, 1, 5, 3, 7);
    store4(keys + first, __builtin_shufflevector(even, odd, 0, 1, 4, 5));
    store4(keys + first + 2, __builtin_shufflevector(even, odd, 2, 3, 6, 7));
    const quad hash = mix4(p.addresses, rest);
    store4(columns + HASHES + first, hash);
    store4(columns + SLOTS + first, hash << 6 & slot_mask);
    // Those of the packets before: what has just been written together is not to be read singly.
    if (first >= begin + 4) ask_for_flows4(slots, columns + SLOTS + first - 4);
    const unsigned stops = highest(bad | ~good);
    if (stops) {
      ask_for_flows4(slots, columns + SLOTS + first);
      return first + (size_t)__builtin_ctz(stops);
    }
  }
  if (first > begin) ask_for_flows4(slots, columns + SLOTS + first - 4);
  return first;
}

FOURS size_t kalsae_plain_read_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 0);
}

FOURS size_t kalsae_plain_unwrap_fours(const struct kalsae_plain *plain, size_t first, size_t end) {
  return parse(plain, first, end, 1);
}
#endif

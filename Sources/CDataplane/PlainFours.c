#include "plain_fours_read.h"

#if defined(__x86_64__)
/// What is known of four IPv4 packets, word by word: octets 0 to 7 of the header and 8 to 15; the addresses; what is behind
/// a header without options.
struct packets4 {
  quad first, second, addresses, transport;
};

FINLINE struct packets4 packets_at(const uint64_t at[4], ptrdiff_t offset) {
  struct packets4 p;
  pairs_at(at, offset, &p.first, &p.second);
  pairs_at(at, offset + 12, &p.addresses, &p.transport);
  return p;
}

/// Total length, in the machine's byte order, and from bit 48 on the traffic class.
FINLINE quad total_and_class(struct packets4 p) {
  const __m256i places = _mm256_set_epi32(
      (int)0x80098080, (int)0x80800a0b, (int)0x80018080, (int)0x80800203, (int)0x80098080, (int)0x80800a0b,
      (int)0x80018080, (int)0x80800203);
  return (quad)_mm256_shuffle_epi8((__m256i)p.first, places);
}

/// Which of four packets have an IPv4 header without options with the right checksum, given that they begin with 0x45.
FINLINE quad are_intact(struct packets4 p) {
  const quad sum = low(p.first) + (p.first >> 32) + low(p.second) + (p.second >> 32) + (p.addresses >> 32);
  return same(fold4(sum), four(0xffff));
}

FINLINE size_t parse(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
  const uint64_t offset = is_tunnel ? plain->offset : ETHERNET;
  // Frames that are neither to be cut nor cut off, and have their port.
  const quad state = four((uint64_t)plain->port << 32);
  const uint64_t cut = (uint64_t)(0xff00 | TRUNCATED | (is_tunnel ? CHECKSUM_PARTIAL : 0)) << 48;
  const quad state_mask = four(cut | (uint64_t)0xffff << 32);
  // What frames begin with: of bare ones the Ethernet header and what is certain of the IPv4 header.
  uint8_t row[64] = {0}, row_mask[64] = {0};
  memcpy(row, (const char *)plain->outer + 2, is_tunnel ? 62 : 22);
  memcpy(row_mask, (const char *)plain->outer_mask + 2, is_tunnel ? 62 : 22);
  if (is_tunnel) memcpy(row + 62, (const char *)&plain->inner + 6, 2), memcpy(row_mask + 62, (const char *)&plain->inner_mask + 6, 2);
  const quad begins = load4(row), begins_mask = load4(row_mask), goes_on = load4(row + 32), goes_on_mask = load4(row_mask + 32);
  const quad slot_mask = four((plain->slot_count - 1) * sizeof(struct kalsae_slot4));
  // In registers: what is written could be the structure, for all that the compiler knows.
  uint64_t *const columns = plain->columns, (*const keys)[2] = plain->keys;
  struct kalsae_frame *const frames = plain->frames;
  const char *const slots = plain->slots;
  const quad mark_start = four(plain->mark), tail = four(plain->tail), roomy = four(offset - plain->room);
  const int excludes = plain->excludes;
  const size_t begin = first;
  for (; first + 4 <= end; first += 4) {
    struct kalsae_frame *frame = frames + first;
    const struct frames4 f = frames_at(frame);
    // What is read must be there: the octets that count by the length, the rest by the buffer's size.
    const quad start = low(f.span), length = f.span >> 32, room = length - four(offset);
    // Lanes with the highest bit are not plain: small numbers that are less than they should be have it.
    quad bad = (start + roomy) | (low(f.state) - (start + four(offset + 50)));
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
    const struct packets4 p = packets_at(at, (ptrdiff_t)offset);
    quad room_left = room, outer_sizes = four(0), good = are_intact(p);
    struct packets4 outer;
    if (is_tunnel) {
      if (any(differ4(at, 32, goes_on), goes_on_mask)) break;
      // Version 4, five words; neither "more fragments" nor an offset.
      if (any((p.first ^ four(0x45)), four(0xff3f0000000000ff))) break;
      outer = packets_at(at, ETHERNET);
      outer_sizes = total_and_class(outer);
      // The outer packet must be whole; the inner one must end where it does, or before.
      const quad total = outer_sizes & four(0xffff);
      good &= are_intact(outer);
      bad |= length - four(ETHERNET) - total;
      room_left = total + four(ETHERNET - offset);
      if (plain->has_udp) {
        const __m256i swapped = _mm256_set_epi32(
            (int)0x80808080, (int)0x80800c0d, (int)0x80808080, (int)0x80800405, (int)0x80808080, (int)0x80800c0d,
            (int)0x80808080, (int)0x80800405);
        const quad covered = (quad)_mm256_shuffle_epi8((__m256i)outer.transport, swapped);
        bad |= (covered - four(8)) | (total - covered - four(20));
      }
      store4(columns + LISTED + first, low(outer.addresses));
    }
    const quad sizes = total_and_class(p), total = sizes & four(0xffff);
    const quad transport = p.second & four(0xff00);
    const quad tcp = same(transport, four(TCP << 8)), udp = same(transport, four(UDP << 8));
    good &= tcp | udp;
    bad |= (room_left - total) | (total - four(28)) | same(p.second & four(0xfe), four(0));
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
      mark |= (f.state & four((uint64_t)CHECKSUM_VERIFIED << 48)) >> 22;
      // TUN-5, TUN-6: nothing to carry over.
      quad alike = same((outer_sizes ^ mark) & four((uint64_t)0xff << 48), four(0));
      if (!plain->uniform_dscp) alike |= same(outer_sizes & four((uint64_t)3 << 48), four(0));
      good &= alike;
      if (plain->uniform_ttl) bad |= (outer.second & four(0xff)) - (p.second & four(0xff));
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

#pragma once
// What both families' readers of four frames at a time share.
#include "plain_fours.h"

#if defined(__x86_64__)
enum { CHECKSUM_PARTIAL = 1, CHECKSUM_VERIFIED = 2, TRUNCATED = 8, TCP = 6, UDP = 17, ETHERNET = 14 };

/// Of four frames, word by word: where they begin in memory; place in the buffer and length; capacity, port, flags.
struct frames4 {
  quad buffer, span, state;
};

FINLINE struct frames4 frames_at(const struct kalsae_frame *frame) {
  const quad a = load4(frame), b = load4(frame + 1), c = load4(frame + 2), d = load4(frame + 3);
  const quad even = __builtin_shufflevector(a, b, 0, 4, 2, 6), odd = __builtin_shufflevector(a, b, 1, 5, 3, 7);
  const quad next = __builtin_shufflevector(c, d, 0, 4, 2, 6), last = __builtin_shufflevector(c, d, 1, 5, 3, 7);
  return (struct frames4){
      .buffer = __builtin_shufflevector(even, next, 0, 1, 4, 5),
      .span = __builtin_shufflevector(odd, last, 0, 1, 4, 5),
      .state = __builtin_shufflevector(even, next, 2, 3, 6, 7),
  };
}

/// What frames have to be before anything of them is read: `reach` octets from their first on are read, `offset` octets from
/// it is the packet, and `cut` are the flags that they may not have.
struct admission4 {
  quad port, cut, unlike, roomy, reach;
  uint16_t number;
};

FINLINE struct admission4 admission(const struct kalsae_plain *plain, uint64_t offset, uint64_t reach, uint64_t flags) {
  const uint64_t cut = (0xff00 | TRUNCATED | flags) << 48;
  return (struct admission4){
      .port = four((uint64_t)plain->port << 32), .cut = four(cut), .unlike = four(cut | (uint64_t)0xffff << 32),
      .roomy = four(offset - plain->room), .reach = four(reach), .number = plain->port,
  };
}

/// Whether four frames are neither to be cut nor cut off, and what is read of them is there: the octets that count by the
/// length, which is seen to later, the rest by the buffer's size. Gives them their port, and says where they begin.
FINLINE int admit4(const struct admission4 *a, struct kalsae_frame *frame, struct frames4 f, uint64_t at[4]) {
  const quad start = low(f.span);
  // Lanes with the highest bit are not: small numbers that are less than they should be have it.
  quad bad = (start + a->roomy) | (low(f.state) - (start + a->reach));
  if (unlikely(any(f.state ^ a->port, a->unlike))) {
    bad |= same(f.state & a->cut, four(0)) ^ four(UINT64_MAX);
    if (!highest(bad)) for (int i = 0; i < 4; i++) frame[i].port = a->number;
  }
  if (unlikely(highest(bad))) return 0;
  // (Read singly: to take them out of vectors takes longer.)
  const struct kalsae_frame *one = frame;
  __asm__("" : "+r"(one));
  for (int i = 0; i < 4; i++) at[i] = (uint64_t)one[i].buffer + one[i].start;
  return 1;
}

/// Of four rows of memory, bits that differ from `value`, together.
FINLINE quad differ4(const uint64_t at[4], ptrdiff_t offset, quad value) {
  quad sum = load4((const void *)(at[0] + offset)) ^ value;
  for (int i = 1; i < 4; i++) sum |= load4((const void *)(at[i] + offset)) ^ value;
  return sum;
}

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

/// What frames must begin with: bare ones with the Ethernet header and what is certain of the header behind it, those in a
/// tunnel with what is certain of the first 64 octets.
struct pattern4 {
  quad begins, begins_mask, goes_on, goes_on_mask;
};

FINLINE struct pattern4 pattern_of(const struct kalsae_plain *plain, const int is_tunnel) {
  uint8_t row[64] = {0}, mask[64] = {0};
  memcpy(row, (const char *)plain->outer + 2, is_tunnel ? 62 : 22);
  memcpy(mask, (const char *)plain->outer_mask + 2, is_tunnel ? 62 : 22);
  if (is_tunnel) memcpy(row + 62, (const char *)&plain->inner + 6, 2), memcpy(mask + 62, (const char *)&plain->inner_mask + 6, 2);
  return (struct pattern4){load4(row), load4(mask), load4(row + 32), load4(mask + 32)};
}

FINLINE int begin_so(const struct pattern4 *pattern, const uint64_t at[4], const int is_tunnel) {
  if (any(differ4(at, 0, pattern->begins), pattern->begins_mask)) return 0;
  return !is_tunnel || !any(differ4(at, 32, pattern->goes_on), pattern->goes_on_mask);
}

/// Of four packets in tunnels over IPv4: lanes with the highest bit have an outer header that is not plain; the octets that
/// the inner packet may have; the outer traffic class from bit 48 on, and time to live.
struct outer4 {
  quad bad, room, sizes, time_to_live;
};

/// Reads outer headers, and leaves where the packets came from.
FINLINE struct outer4 outer_of(
    const struct kalsae_plain *plain, const uint64_t at[4], quad length, uint64_t offset, uint64_t *sources) {
  const struct packets4 p = packets_at(at, ETHERNET);
  const quad sizes = total_and_class(p), total = sizes & four(0xffff);
  // The outer packet must be whole; the inner one must end where it does, or before.
  quad bad = ~are_intact(p) | (length - four(ETHERNET) - total);
  if (plain->has_udp) {
    const __m256i swapped = _mm256_set_epi32(
        (int)0x80808080, (int)0x80800c0d, (int)0x80808080, (int)0x80800405, (int)0x80808080, (int)0x80800c0d,
        (int)0x80808080, (int)0x80800405);
    const quad covered = (quad)_mm256_shuffle_epi8((__m256i)p.transport, swapped);
    bad |= (covered - four(8)) | (total - covered - four(20));
  }
  store4(sources, low(p.addresses));
  return (struct outer4){bad, total + four(ETHERNET - offset), sizes, p.second & four(0xff)};
}

/// Which of four packets something of the outer header has to be carried over to (TUN-5, TUN-6): lanes with the highest bit.
FINLINE quad carried_over(const struct kalsae_plain *plain, struct outer4 outer, quad mark, quad time_to_live) {
  quad alike = same((outer.sizes ^ mark) & four((uint64_t)0xff << 48), four(0));
  if (!plain->uniform_dscp) alike |= same(outer.sizes & four((uint64_t)3 << 48), four(0));
  return plain->uniform_ttl ? ~alike | (outer.time_to_live - time_to_live) : ~alike;
}

/// What the device has verified, as marks have it between unwrapping and trust.
FINLINE quad verified4(quad state) { return (state & four((uint64_t)CHECKSUM_VERIFIED << 48)) >> 22; }

/// Asks for the slots of four packets' flows.
INLINE void ask_for_flows4(const char *slots, const uint64_t *places) {
  for (int i = 0; i < 4; i++) kalsae_prefetch_write(slots + places[i]);
}

/// The same for IPv6, whose slots are two cache lines.
INLINE void ask_for_flows6(const char *slots, const uint64_t *places) {
  for (int i = 0; i < 4; i++) kalsae_prefetch_write(slots + places[i]), kalsae_prefetch_write(slots + places[i] + 64);
}

/// Which of four packets, of whose keys these are the last words, have an excluded destination port.
FINLINE quad excluded4(const struct kalsae_plain *plain, quad tail) {
  const quad port = tail >> 16 & four(0xffff);
  return same(port, four(plain->excluded[0])) | same(port, four(plain->excluded[1]));
}

/// Which of four frames have a partial checksum.
FINLINE quad are_partial(quad state) {
  return same(state & four((uint64_t)CHECKSUM_PARTIAL << 48), four((uint64_t)CHECKSUM_PARTIAL << 48));
}

/// Which of four partial checksums are not those of the transport headers that begin at `start`, or have to be elsewhere.
FINLINE quad misplaced4(const struct kalsae_frame *frame, quad start, quad tcp) {
  quad field;
  for (int i = 0; i < 4; i++) field[i] = load64(&frame[i].checksum_start);
  const quad expected = start + choose(tcp, four((uint64_t)16 << 32), four((uint64_t)6 << 32));
  return same((field ^ expected) & four(0xffffffffffff), four(0)) ^ four(UINT64_MAX);
}

#endif

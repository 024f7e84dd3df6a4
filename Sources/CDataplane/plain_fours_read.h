#pragma once
// What both families' readers of eight frames at a time share.
#include "plain_fours.h"

#if defined(__x86_64__)
#define EACH(x) {x, x, x, x, x, x, x, x}
/// What nearly every packet is compared with or added to, in all lanes (`at_hand`).
static const _Alignas(32) struct constants {
  uint32_t signs[8], one[8], half[8], carries[8], tcp[8], udp[8], transport[8], time_to_live[8], class[8], length[8];
} constants = {
    .signs = EACH(0x80008000), .one = EACH(0x10001), .half = EACH(0xffff), .carries = EACH(0x50000), .tcp = EACH(TCP << 8),
    .udp = EACH(UDP << 8), .transport = EACH(0xff00), .time_to_live = EACH(0xfe), .class = EACH(0xff0000),
    .length = {0x80800203, 0x80800607, 0x80800a0b, 0x80800e0f, 0x80800203, 0x80800607, 0x80800a0b, 0x80800e0f},
};

/// Numbers of 16 bits in network byte order that are the upper halves of words.
FINLINE eight upper_number(const struct constants *k, eight a) {
  return (eight)_mm256_shuffle_epi8((__m256i)a, (__m256i)at_hand(k->length));
}
/// Those that are the lower halves.
FINLINE eight lower_number(const struct constants *k, eight a) { return upper_number(k, a << 16); }

/// What eight frames are, and where.
struct frames8 {
  eight start, length, state;
};

/// What frames have to be before anything of them is read: `reach` octets from their first on are read, `offset` octets from
/// it is the packet, and `cut` are the flags that they may not have.
struct admission8 {
  eight port, cut, unlike, roomy, reach;
  uint16_t number;
};

FINLINE struct admission8 admission(
    const struct kalsae_plain *plain, uint32_t offset, uint32_t reach, const int is_tunnel) {
  const uint32_t cut = (uint32_t)(0xff00 | TRUNCATED | (is_tunnel ? CHECKSUM_PARTIAL : 0)) << 16;
  return (struct admission8){
      .port = each(plain->port), .cut = each(cut), .unlike = each(cut | 0xffff), .roomy = each(offset - plain->room),
      .reach = each(reach), .number = plain->port,
  };
}

/// Whether eight frames are neither to be cut nor cut off, and what is read of them is there: the octets that count by the
/// length, which is seen to later, the rest by the buffer's size. Gives them their port.
FINLINE int admit8(const struct admission8 *a, struct kalsae_frame *frame, struct frames8 *f) {
  quad rows[4];
  for (int i = 0; i < 4; i++) {
    const int one = packet_in[i];
    rows[i] = two_at((uint64_t)&frame[one].start, (uint64_t)&frame[one + 2].start);
  }
  const struct words8 words = turned(rows[0], rows[1], rows[2], rows[3]);
  const eight start = words.word[0], state = words.word[3];
  *f = (struct frames8){start, words.word[1], state};
  // Lanes with the highest bit are not: small numbers that are less than they should be have it.
  eight bad = (start + a->roomy) | (words.word[2] - (start + a->reach));
  if (unlikely(any8(state ^ a->port, a->unlike))) {
    bad |= ~same8(state & a->cut, each(0));
    if (!is_any_high(bad)) for (int i = 0; i < 8; i++) frame[i].port = a->number;
  }
  return !is_any_high(bad);
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

/// Where a frame begins in memory. (In a register: the compiler would add its parts for each use.)
FINLINE uint64_t begin_of(const struct kalsae_frame *frame) {
  uint64_t begin = (uint64_t)frame->buffer + frame->start;
  __asm__("" : "+r"(begin));
  return begin;
}

/// Whether eight frames begin so. Leaves where their packets are.
FINLINE int begin_so(
    const struct pattern4 *pattern, const struct kalsae_frame *frame, uint32_t offset, const int is_tunnel, uint64_t *places) {
  const struct kalsae_frame *const again = apart(frame);
  quad begins = four(0), goes_on = four(0);
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) {
    const uint64_t p = begin_of(again + i);
    begins |= load4((const void *)p) ^ pattern->begins;
    if (is_tunnel) goes_on |= load4((const void *)(p + 32)) ^ pattern->goes_on;
    places[i] = p + offset;
  }
  return !any(begins, pattern->begins_mask) && !(is_tunnel && any(goes_on, pattern->goes_on_mask));
}

/// Which have an IPv4 header without options with the right checksum, of its five words, given that they begin with 0x45.
FINLINE eight are_intact(const struct constants *k, const eight word[4], eight fifth) {
  // Signed multiplications add up 16-bit words, each of them less 2^15.
  const __m256i signs = (__m256i)at_hand(k->signs), one = (__m256i)at_hand(k->one);
  eight sum = (eight)_mm256_madd_epi16(_mm256_xor_si256((__m256i)fifth, signs), one) + at_hand(k->carries);
  for (int i = 0; i < 4; i++) sum += (eight)_mm256_madd_epi16(_mm256_xor_si256((__m256i)word[i], signs), one);
  return same8((sum & at_hand(k->half)) + (sum >> 16), at_hand(k->half));
}

/// Of eight packets in tunnels over IPv4: lanes with the highest bit have an outer header that is not plain; the octets that
/// the inner packet may have; the outer traffic class from bit 16 on, and time to live.
struct outer8 {
  eight bad, room, class, time_to_live;
};

/// Reads the outer headers of packets whose inner ones are at these places, and leaves where the packets came from.
FINLINE struct outer8 outer_of(
    const struct constants *k, const struct kalsae_plain *plain, const uint64_t *inner, eight length, uint32_t offset,
    uint64_t *sources) {
  const ptrdiff_t header = ETHERNET - (ptrdiff_t)offset;
  const struct words8 p = words8_at(inner, header), q = words8_at(inner, header + 16);
  const eight total = upper_number(k, p.word[0]);
  // The outer packet must be whole; the inner one must end where it does, or before.
  eight bad = ~are_intact(k, p.word, q.word[0]) | (length - each(ETHERNET) - total);
  if (plain->has_udp) {
    const eight covered = lower_number(k, q.word[2]);
    bad |= (covered - each(8)) | (total - covered - each(20));
  }
  store_woven(sources, p.word[3], each(0));
  return (struct outer8){
      bad, total + each(ETHERNET - offset), p.word[0] << 8 & at_hand(k->class), p.word[2] & each(0xff)};
}

/// Which packets something of the outer header has to be carried over to (TUN-5, TUN-6): lanes with the highest bit. `class`:
/// their own traffic class, where the outer one is.
FINLINE eight carried_over(
    const struct constants *k, const struct kalsae_plain *plain, struct outer8 outer, eight class, eight time_to_live) {
  eight alike = same8((outer.class ^ class) & at_hand(k->class), each(0));
  if (!plain->uniform_dscp) alike |= same8(outer.class & each((uint32_t)3 << 16), each(0));
  return plain->uniform_ttl ? ~alike | (outer.time_to_live - time_to_live) : ~alike;
}

/// What the device has verified, as the lower halves of marks have it between unwrapping and trust.
FINLINE eight verified8(eight state) { return (state & each(CHECKSUM_VERIFIED << 16)) << 10; }

/// Asks for the slots of some packets' flows: of IPv6 they are two cache lines.
FINLINE void ask_for_flows(const char *slots, const uint64_t *places, const int count, const int is_ipv6) {
  for (int i = 0; i < count; i++) {
    kalsae_prefetch_write(slots + places[i]);
    if (is_ipv6) kalsae_prefetch_write(slots + places[i] + 64);
  }
}

/// Which have an excluded destination port, of these pairs of ports.
FINLINE eight excluded8(const struct kalsae_plain *plain, eight ports) {
  return same8(ports >> 16, each(plain->excluded[0])) | same8(ports >> 16, each(plain->excluded[1]));
}

/// 32 bits each from `offset` behind eight places in memory on.
FINLINE eight word8_at(const uint64_t *places, ptrdiff_t offset) {
  const uint64_t *at = apart(places);
  eight words;
  for (int i = 0; i < 8; i++) words[i] = load32((const char *)at[packet_in[i]] + offset);
  return words;
}

/// Which of eight frames have a partial checksum.
FINLINE eight are_partial(eight state) {
  return same8(state & each(CHECKSUM_PARTIAL << 16), each(CHECKSUM_PARTIAL << 16));
}

/// Which of eight partial checksums are not those of the transport headers that begin at `start`, or have to be elsewhere.
FINLINE eight misplaced8(const struct kalsae_frame *frame, eight start, eight tcp) {
  eight begins, field;
  for (int i = 0; i < 8; i++) {
    begins[i] = frame[packet_in[i]].checksum_start;
    field[i] = frame[packet_in[i]].checksum_offset;
  }
  return ~(same8(begins, start) & same8(field, each(6) + (tcp & each(10))));
}
#endif

#include "plain_octets.h"

enum { IPV4 = 20, IPV6 = 40 };

INLINE uint32_t total_length(const uint8_t *header) { return __builtin_bswap16(load16(header + 2)); }

/// It lies across two octets.
INLINE uint8_t traffic_class6(const uint8_t *header) { return (uint8_t)(__builtin_bswap16(load16(header)) >> 4); }

/// Whether an IPv4 header without options has the right checksum. The one's complement sum in 64 bits: 2^16 and 2^64 are
/// both 1 modulo 65535, so it is right when that divides it. A multiple of 65535 is what the inverse of 65535 makes small.
INLINE int is_intact(const uint8_t *header) {
  unsigned long long carry;
  unsigned long long sum = __builtin_addcll(load64(header), load64(header + 8), 0, &carry);
  sum = __builtin_addcll(sum, load32(header + 16), carry, &carry);
  return (sum + carry) * 0xfffefffefffeffff <= UINT64_MAX / 0xffff;
}

/// Whether eight octets differ, where `mask` says that they count.
INLINE uint64_t differ(const uint8_t *p, uint64_t value, uint64_t mask) { return (load64(p) ^ value) & mask; }

/// Whether a frame in a tunnel has the headers that are expected, and how long the inner packet may be; 0 where it has not.
INLINE uint32_t inner_room(const struct kalsae_plain *plain, const uint8_t *p, uint32_t length, const int is_ipv6) {
  uint64_t difference = differ(p + plain->offset - 8, plain->inner, plain->inner_mask);
  for (int i = 0; i < 8; i++) difference |= differ(p + 8 * i - 2, plain->outer[i], plain->outer_mask[i]);
  const uint8_t *outer = p + ETHERNET;
  const uint32_t total = total_length(outer);
  // The outer packet must be whole; the inner one must end where it does, or before.
  if (difference || total > length - ETHERNET || total + ETHERNET < plain->offset || !is_intact(outer)) return 0;
  // TUN-5, TUN-6: nothing to carry over.
  const uint8_t *header = p + plain->offset;
  if (plain->uniform_ttl && header[is_ipv6 ? 7 : 8] > outer[8]) return 0;
  if (outer[1] != (is_ipv6 ? traffic_class6(header) : header[1]) && (outer[1] & 3 || plain->uniform_dscp)) return 0;
  if (plain->has_udp) {
    // A length that covers the headers and does not exceed the packet.
    const uint32_t covered = __builtin_bswap16(load16(outer + IPV4 + 4));
    if (covered < 8 || covered + IPV4 > total) return 0;
  }
  return total + ETHERNET - plain->offset;
}

/// Whether a frame begins as a bare packet's should. (Word by word: to compare them together takes more instructions.)
INLINE int begins_plain(const struct kalsae_plain *plain, const uint8_t *p) {
  if (differ(p - 2, plain->outer[0], plain->outer_mask[0])) return 0;
  if (differ(p + 6, plain->outer[1], plain->outer_mask[1])) return 0;
  return !differ(p + ETHERNET, plain->outer[2], plain->outer_mask[2]);
}

INLINE void note_hash(const struct kalsae_plain *plain, size_t index, uint64_t addresses, uint64_t tail) {
  const uint64_t hash = kalsae_mix(addresses, tail);
  plain->columns[HASHES + index] = hash;
  kalsae_prefetch_write((const struct kalsae_slot4 *)plain->slots + (hash & (plain->slot_count - 1)));
}

/// How frames are read: singly, where all is done singly; singly; some at a time.
enum { PORTABLE, SINGLY, IN_GROUPS };

/// Reads a frame. Whether it is plain.
INLINE int read_one(
    const struct kalsae_plain *plain, size_t index, const int is_tunnel, const int excludes, const int way) {
  struct kalsae_frame *frame = plain->frames + index;
  const uint32_t offset = is_tunnel ? plain->offset : ETHERNET, start = frame->start, length = frame->length;
  const int partial = frame->flags & CHECKSUM_PARTIAL;
  // What is read must be there.
  if (load16(&frame->flags) & (0xff00 | TRUNCATED | (is_tunnel ? CHECKSUM_PARTIAL : 0))) return 0;
  if (start + offset < plain->room || length < offset + 28) return 0;
  const uint8_t *p = frame->buffer + start, *header = p + offset;
  uint32_t room = length - offset;
  if (is_tunnel) {
    room = inner_room(plain, p, length, 0);
    // Version 4, five words; neither "more fragments" nor an offset.
    if (differ(header, 0x45, 0xff3f0000000000ff)) return 0;
  } else if (!begins_plain(plain, p)) {
    return 0;
  }
  const uint32_t total = total_length(header), transport = header[9];
  if (total > room || total < 28 || header[8] <= 1 || !is_intact(header)) return 0;
  uint64_t mark = plain->mark | total | (uint64_t)header[1] << 48;
  if (transport == TCP) {
    // What opens and closes connections changes more than counts.
    if (total < 40 || header[IPV4 + 13] & 7) return 0;
    mark |= (uint64_t)header[IPV4 + 13] << 56;
  } else if (transport != UDP) {
    return 0;
  } else if (excludes) {
    const uint16_t port = load16(header + IPV4 + 2);
    if (port == plain->excluded[0] || port == plain->excluded[1]) return 0;
  }
  if (unlikely(partial)) {
    // Of nothing but the transport header behind the IPv4 header.
    if (frame->checksum_start != start + offset + IPV4 || frame->checksum_offset != (transport == TCP ? 16 : 6)) return 0;
    mark |= (uint64_t)1 << 31;
  }
  const uint64_t addresses = load64(header + 12);
  const uint64_t tail = plain->tail | load32(header + IPV4) | (uint64_t)transport << 32;
  frame->port = plain->port;
  if (is_tunnel && frame->flags & CHECKSUM_VERIFIED) mark |= VERIFIED;
  plain->keys[index][0] = addresses;
  plain->keys[index][1] = tail;
  plain->columns[WORDS + index] = load64(header + 4);
  plain->columns[MARKS + index] = mark;
  if (way != PORTABLE) {
    plain->columns[PLACES + index] = (uint64_t)header;
    plain->columns[SPANS + index] = load64(&frame->start);
  }
  if (is_tunnel) plain->columns[LISTED + index] = load32(p + ETHERNET + 12);
  note_hash(plain, index, addresses, tail);
  return 1;
}

/// Reads groups of frames, up to the first that is not plain, or that is left over.
INLINE size_t read_groups(const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel) {
#if defined(__x86_64__)
  if (plain->lanes == 8) return (is_tunnel ? kalsae_eights.unwrap : kalsae_eights.read)(plain, first, end);
  return (is_tunnel ? kalsae_plain_unwrap_fours : kalsae_plain_read_fours)(plain, first, end);
#else
  (void)plain, (void)end, (void)is_tunnel;
  return first;
#endif
}

/// Reads frames as long as they are plain; of groups, what stands in the way of one singly.
INLINE size_t read_all(
    const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel, const int excludes,
    const int way) {
  while (first < end) {
    size_t next = end;
    if (way == IN_GROUPS) {
      first = read_groups(plain, first, end, is_tunnel);
      if (end - first > kalsae_group) next = first + kalsae_group;
    }
    while (first < next && read_one(plain, first, is_tunnel, excludes, way)) first++;
    if (first < next) break;
  }
  return first;
}

static __attribute__((noinline)) size_t read_portable(const struct kalsae_plain *plain, size_t first, size_t end) {
  while (first < end && read_one(plain, first, 0, 0, PORTABLE)) first++;
  return first;
}

INLINE size_t read_in_way(
    const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel, const int excludes) {
  if (plain->lanes == 1) {
    if (!is_tunnel && !excludes) return read_portable(plain, first, end);
    while (first < end && read_one(plain, first, is_tunnel, excludes, PORTABLE)) first++;
    return first;
  }
  if (plain->singly) return read_all(plain, first, end, is_tunnel, excludes, SINGLY);
  return read_all(plain, first, end, is_tunnel, excludes, IN_GROUPS);
}

size_t kalsae_plain_read(const struct kalsae_plain *plain, size_t first, size_t end) {
  return plain->excludes ? read_in_way(plain, first, end, 0, 1) : read_in_way(plain, first, end, 0, 0);
}

size_t kalsae_plain_unwrap(const struct kalsae_plain *plain, size_t first, size_t end) {
  return read_in_way(plain, first, end, 1, 0);
}

/// Reads a frame with an IPv6 packet. Whether it is plain.
INLINE int read_one6(const struct kalsae_plain *plain, size_t index, const int is_tunnel, const int excludes) {
  struct kalsae_frame *frame = plain->frames + index;
  const uint32_t offset = is_tunnel ? plain->offset : ETHERNET, start = frame->start, length = frame->length;
  const int partial = frame->flags & CHECKSUM_PARTIAL;
  // What is read must be there.
  if (load16(&frame->flags) & (0xff00 | TRUNCATED | (is_tunnel ? CHECKSUM_PARTIAL : 0))) return 0;
  if (start + offset < plain->room || length < offset + IPV6 + 8) return 0;
  const uint8_t *p = frame->buffer + start, *header = p + offset;
  uint32_t room = length - offset;
  if (is_tunnel) {
    room = inner_room(plain, p, length, 1);
    if (header[0] >> 4 != 6) return 0;
  } else if (!begins_plain(plain, p)) {
    return 0;
  }
  const uint64_t first = load64(header);
  const uint32_t total = IPV6 + __builtin_bswap16((uint16_t)(first >> 32)), transport = header[6];
  if (total > room || total < IPV6 + 8 || total > 0xffff || header[7] <= 1) return 0;
  uint64_t mark = plain->mark | total | (uint64_t)traffic_class6(header) << 48;
  if (transport == TCP) {
    // What opens and closes connections changes more than counts.
    if (total < IPV6 + 20 || header[IPV6 + 13] & 7) return 0;
    mark |= (uint64_t)header[IPV6 + 13] << 56;
  } else if (transport != UDP) {
    return 0;
  } else if (excludes) {
    const uint16_t port = load16(header + IPV6 + 2);
    if (port == plain->excluded[0] || port == plain->excluded[1]) return 0;
  }
  if (unlikely(partial)) {
    // Of nothing but the transport header behind the IPv6 header.
    if (frame->checksum_start != start + offset + IPV6 || frame->checksum_offset != (transport == TCP ? 16 : 6)) return 0;
    mark |= (uint64_t)1 << 31;
  }
  if (is_tunnel && frame->flags & CHECKSUM_VERIFIED) mark |= VERIFIED;
  uint64_t *key = (uint64_t *)plain->keys + 5 * index;
  memcpy(key, header + 8, 32);
  key[4] = plain->tail | load32(header + IPV6) | (uint64_t)transport << 32;
  const uint64_t sources = kalsae_mix(load64(header + 8), load64(header + 16));
  const uint64_t hash = kalsae_mix(sources, kalsae_mix(load64(header + 24), load64(header + 32)) ^ key[4]);
  frame->port = plain->port;
  plain->columns[HASHES + index] = hash;
  plain->columns[WORDS + index] = first;
  plain->columns[MARKS + index] = mark;
  plain->columns[PLACES + index] = (uint64_t)header;
  plain->columns[SPANS + index] = load64(&frame->start);
  if (is_tunnel) plain->columns[LISTED + index] = load32(p + ETHERNET + 12);
  // Two cache lines.
  const char *slot = (const char *)((const struct kalsae_slot6 *)plain->slots + (hash & (plain->slot_count - 1)));
  kalsae_prefetch_write(slot);
  kalsae_prefetch_write(slot + 64);
  return 1;
}

/// Reads frames with IPv6 as long as they are plain; of groups, what stands in the way of one singly.
INLINE size_t read_all6(
    const struct kalsae_plain *plain, size_t first, size_t end, const int is_tunnel, const int excludes) {
  while (first < end) {
    size_t next = end;
#if defined(__x86_64__)
    if (plain->lanes > 1 && !plain->singly) {
      first = (is_tunnel ? kalsae_plain_unwrap6_fours : kalsae_plain_read6_fours)(plain, first, end);
      if (end - first > kalsae_group) next = first + kalsae_group;
    }
#endif
    while (first < next && read_one6(plain, first, is_tunnel, excludes)) first++;
    if (first < next) break;
  }
  return first;
}

size_t kalsae_plain_read6(const struct kalsae_plain *plain, size_t first, size_t end) {
  return plain->excludes ? read_all6(plain, first, end, 0, 1) : read_all6(plain, first, end, 0, 0);
}

size_t kalsae_plain_unwrap6(const struct kalsae_plain *plain, size_t first, size_t end) {
  return read_all6(plain, first, end, 1, 0);
}

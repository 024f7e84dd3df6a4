#pragma once
// What is done with a single packet where the loops that take several at a time leave one over.
#include "plain_octets.h"

/// How far the size of a slot moves a position, and where it says which hop its flow's packets take.
enum {
  SHIFT4 = 6,
  SHIFT6 = 7,
  HOP = offsetof(struct kalsae_slot4, flow) + offsetof(struct kalsae_direction, hop),
  HOP6 = offsetof(struct kalsae_slot6, flow) + offsetof(struct kalsae_direction, hop),
};

/// Where the outer header says that a packet came from.
INLINE uint32_t source_of(const struct kalsae_plain *plain, size_t index) {
  return (uint32_t)plain->columns[LISTED + index];
}

/// Notes which peer a packet came from. Whether there is one that may send so.
INLINE int trust_one(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t index) {
  const uint32_t source = source_of(plain, index);
  size_t place = kalsae_peer_place(source, peers->shift);
  // Not all words are in use.
  while (peers->words[place] && (uint32_t)peers->words[place] != source) place = (place + 1) & (peers->count - 1);
  const uint64_t word = peers->words[place];
  if (!(word & peers->bit)) return 0;
  uint64_t *mark = plain->columns + MARKS + index;
  // What the device said about checksums was about the outer packet.
  if (*mark & VERIFIED) plain->frames[index].flags &= (uint8_t)~CHECKSUM_VERIFIED;
  *mark = (*mark & ~VERIFIED) | (word & (uint64_t)0xffff << 32);
  return 1;
}

/// Asks for what a hop's packets need.
INLINE void await_hop(const struct kalsae_search *s, size_t hop, const int has_tunnels) {
  kalsae_prefetch((const char *)(s->hops + hop) + 64);
  if (has_tunnels) kalsae_prefetch(s->hops + hop);
}

/// Finds the flow of one of the packets.
INLINE void find_one(const struct kalsae_search *s, size_t number, const int is_ipv6, const int has_tunnels) {
  const size_t mask = s->slot_count - 1, index = s->packets[number];
  size_t position = s->columns[HASHES + index] & mask, hop;
  for (;;) {
    const uint64_t *key, *other;
    uint64_t difference;
    if (is_ipv6) {
      const struct kalsae_slot6 *slot = (const struct kalsae_slot6 *)s->slots + position;
      key = (const uint64_t *)s->keys + 5 * index, other = slot->key, hop = slot->flow.hop;
      difference = (key[0] ^ other[0]) | (key[1] ^ other[1]) | (key[2] ^ other[2]) | (key[3] ^ other[3]);
      difference |= key[4] ^ other[4];
    } else {
      const struct kalsae_slot4 *slot = (const struct kalsae_slot4 *)s->slots + position;
      key = (const uint64_t *)s->keys + 2 * index, other = slot->key, hop = slot->flow.hop;
      difference = (key[0] ^ other[0]) | (key[1] ^ other[1]);
    }
    if (!difference) {
      await_hop(s, hop, has_tunnels);
      s->columns[LISTED + s->start + number] = position << 8 | index;
      s->columns[SLOTS + index] = (uint64_t)s->slots + (position << (is_ipv6 ? SHIFT6 : SHIFT4));
      s->columns[HOPS + index] = (uint64_t)(s->hops + hop);
      return;
    }
    // Every key that is in use has a flag.
    if (!octet(other + (is_ipv6 ? 4 : 1), 5)) {
      s->columns[LISTED + s->start + number] = (uint64_t)-1 << 8 | index;
      return;
    }
    position = (position + 1) & mask;
  }
}

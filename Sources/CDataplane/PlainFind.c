#include "plain_fours.h"
#include "plain_singly.h"

_Static_assert(sizeof(struct kalsae_slot4) == 64 && sizeof(struct kalsae_slot6) == 128, "slots are whole cache lines");
_Static_assert(kalsae_part_length % 64 == 0, "a part is whole words of bits");

#if defined(__x86_64__)
/// Of two pairs of packets, of whose keys the words are all ones that are as in the slot: packets 0, 2, 1, 3.
FINLINE quad whole(quad one, quad other) {
  return __builtin_shufflevector(one, other, 0, 4, 2, 6) & __builtin_shufflevector(one, other, 1, 5, 3, 7);
}

/// Which of eight packets' keys are those of the slots that they are compared with: of packets 0, 2, 4, 6, 1, 3, 5, 7.
FINLINE uint64_t alike8(const char *keys, const uint64_t *at) {
  quad found[2];
  for (int i = 0; i < 2; i++, keys += 64, at += 4) {
    found[i] = whole(same(load4(keys), two_at(at[0], at[1])), same(load4(keys + 32), two_at(at[2], at[3])));
  }
  return (unsigned)_mm256_movemask_ps(_mm256_shuffle_ps((__m256)found[0], (__m256)found[1], 0x88));
}

/// The same for IPv6, whose keys are five words: in order.
FINLINE uint64_t alike8_6(const char *keys, const uint64_t *at) {
  uint64_t found = 0;
  for (int i = 0; i < 8; i++, keys += sizeof(uint64_t[5])) {
    const quad difference = load4(keys) ^ load4((const void *)at[i]);
    const int is_tail = load64(keys + 32) == load64((const void *)(at[i] + 32));
    found |= (uint64_t)(is_tail & !any(difference, difference)) << i;
  }
  return found;
}

/// In each octet, bits 0 to 3 to 0, 2, 4 and 6, and bits 4 to 7 between them.
FINLINE uint64_t in_order(uint64_t bits) {
  uint64_t moved = (bits ^ bits >> 2) & 0x0c0c0c0c0c0c0c0c;
  bits ^= moved ^ moved << 2;
  moved = (bits ^ bits >> 1) & 0x2222222222222222;
  return bits ^ moved ^ moved << 1;
}

/// Finds the flows of packets in groups, from place `first` of the list on, before `count`, as long as there is none between
/// them that is not listed. Returns the place behind them.
FINLINE size_t find_in_fours(
    const struct kalsae_search *search, size_t first, size_t count, const int is_ipv6, const int has_tunnels) {
  const struct kalsae_search s = *search;
  const int shift = is_ipv6 ? SHIFT6 : SHIFT4;
  const size_t key_size = is_ipv6 ? sizeof(uint64_t[5]) : sizeof(uint64_t[2]), base = s.packets[first];
  const quad mask = four(s.slot_count - 1), slots = four((uint64_t)s.slots);
  uint64_t *const columns = s.columns + base, *const listed = s.columns + LISTED + s.start + first;
  // They are in order: without gaps where the last is as near as it can be.
  size_t end = (count - first) & ~(size_t)(kalsae_group - 1);
  if (end > kalsae_part_length) end = kalsae_part_length;
  while (end && s.packets[first + end - 1] - base != end - 1) end -= kalsae_group;
  quad order = four(base) + (quad){0, 1, 2, 3};
  for (size_t i = 0; i < end; i += 4, order += four(4)) {
    const quad place = load4(columns + HASHES + i) & mask;
    store4(columns + SLOTS + i, (place << shift) + slots);
    store4(listed + i, place << 8 | order);
  }
  // What is not where it should be first: further on, or not there.
  uint64_t elsewhere[kalsae_part_length / 64];
  const char *sought = (const char *)s.keys + key_size * base;
  const int hop_at = is_ipv6 ? HOP6 : HOP;
  for (size_t begin = 0; begin < end; begin += 64) {
    const size_t length = end - begin < 64 ? end - begin : 64;
    uint64_t alike = 0;
    for (size_t i = 0; i < length; i += 8, sought += 8 * key_size) {
      uint64_t *const at = (uint64_t *)apart(columns + SLOTS + begin + i);
      alike |= (is_ipv6 ? alike8_6(sought, at) : alike8(sought, at)) << i;
#pragma clang loop unroll(full)
      for (int n = 0; n < 8; n++) {
        const char *hop = (const char *)s.hops + ((size_t)load32((const char *)at[n] + hop_at) << 7);
        at[n + HOPS - SLOTS] = (uint64_t)hop;
        kalsae_prefetch(hop + 64);
        if (has_tunnels) { kalsae_prefetch(hop); kalsae_prefetch_write((const char *)at[n + PLACES - SLOTS] - 64); }
      }
    }
    if (!is_ipv6) alike = in_order(alike);
    const uint64_t other = ~alike & (length < 64 ? ((uint64_t)1 << length) - 1 : UINT64_MAX);
    elsewhere[begin / 64] = other;
    // Most of them are in the next slot; all are asked for before the first is looked at.
    for (uint64_t rest = other; rest; rest &= rest - 1) {
      const size_t position = (columns[HASHES + begin + __builtin_ctzll(rest)] + 1) & (s.slot_count - 1);
      const char *next = (const char *)s.slots + (position << shift);
      kalsae_prefetch_write(next);
      if (is_ipv6) kalsae_prefetch_write(next + 64);
    }
  }
  for (size_t begin = 0; begin < end; begin += 64) {
    for (uint64_t rest = elsewhere[begin / 64]; rest; rest &= rest - 1) {
      find_one(&s, first + begin + (size_t)__builtin_ctzll(rest), is_ipv6, has_tunnels);
    }
  }
  return first + end;
}

FOURS static size_t find_fours(const struct kalsae_search *search, size_t first, size_t count) {
  return search->has_tunnels ? find_in_fours(search, first, count, 0, 1) : find_in_fours(search, first, count, 0, 0);
}

FOURS static size_t find_fours6(const struct kalsae_search *search, size_t first, size_t count) {
  return search->has_tunnels ? find_in_fours(search, first, count, 1, 1) : find_in_fours(search, first, count, 1, 0);
}
#endif

/// Finds the flows of groups of packets from place `first` on; returns the place behind them.
INLINE size_t find_groups(const struct kalsae_search *search, size_t first, size_t count, const int is_ipv6) {
#if defined(__x86_64__)
  if (is_ipv6) return search->lanes >= 4 ? find_fours6(search, first, count) : first;
  // (By 512 bits only those from the first on.)
  if (search->lanes == 8) return first ? first : kalsae_eights.find(search, count);
  if (search->lanes == 4) return find_fours(search, first, count);
#else
  (void)search, (void)count, (void)is_ipv6;
#endif
  return first;
}

/// Finds the flows of packets from place `first` on, before `end`, one by one.
INLINE void find_singly(const struct kalsae_search *search, size_t first, size_t end, const int is_ipv6) {
  const struct kalsae_search s = *search;
  if (s.has_tunnels) {
    for (; first < end; first++) find_one(&s, first, is_ipv6, 1);
  } else {
    for (; first < end; first++) find_one(&s, first, is_ipv6, 0);
  }
}

/// Finds the flows of all packets: in groups, and what is left of them, or has others between, singly.
INLINE void find_all(const struct kalsae_search *search, size_t count, const int is_ipv6) {
  for (size_t next = 0; next < count;) {
    next = find_groups(search, next, count, is_ipv6);
    const size_t end = count - next > kalsae_group ? next + kalsae_group : count;
    find_singly(search, next, end, is_ipv6);
    next = end;
  }
}

void kalsae_plain_find4(const struct kalsae_search *search, size_t count) { find_all(search, count, 0); }

void kalsae_plain_find6(const struct kalsae_search *search, size_t count) { find_all(search, count, 1); }

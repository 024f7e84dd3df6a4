#pragma once
// What the loops of the fast path share: octets of packets, which need not be aligned, and the columns of `PlainPackets`.
#include <string.h>

#include "CDataplane.h"

#define INLINE static inline __attribute__((always_inline))
#define unlikely(x) __builtin_expect(!!(x), 0)

/// A frame's flags, and what transports are called in IP headers; the octets of an Ethernet header.
enum { CHECKSUM_PARTIAL = 1, CHECKSUM_VERIFIED = 2, TRUNCATED = 8, TCP = 6, UDP = 17, ETHERNET = 14 };

enum {
  HASHES = 0,
  WORDS = kalsae_column_length,
  MARKS = 2 * kalsae_column_length,
  LISTED = 3 * kalsae_column_length,
  PLACES = 4 * kalsae_column_length,
  SPANS = 5 * kalsae_column_length,
  SLOTS = 6 * kalsae_column_length,
  HOPS = 7 * kalsae_column_length,
};

/// The same place: what is there is to be read singly though it has just been read or written together. To take it out of
/// vectors one by one, as the compiler would, takes longer.
INLINE const void *apart(const void *place) {
  __asm__("" : "+r"(place));
  return place;
}

INLINE uint16_t load16(const void *p) {
  uint16_t value;
  memcpy(&value, p, sizeof value);
  return value;
}
INLINE uint32_t load32(const void *p) {
  uint32_t value;
  memcpy(&value, p, sizeof value);
  return value;
}
INLINE uint64_t load64(const void *p) {
  uint64_t value;
  memcpy(&value, p, sizeof value);
  return value;
}
INLINE uint8_t octet(const void *p, int place) { return ((const uint8_t *)p)[place]; }

/// In a mark between unwrapping and trust: the device has verified a checksum of the outer packet.
static const uint64_t VERIFIED = (uint64_t)1 << 27;

#if defined(__x86_64__)
/// What takes eight packets of IPv4 at a time by vectors of 512 bits, up to the first group that cannot be taken: the readers,
/// `kalsae_plain_trust`, `kalsae_plain_find4` and `kalsae_plain_send4`. Tests put others that do the same in their place where
/// the processor has no such vectors.
struct kalsae_eights {
  size_t (*read)(const struct kalsae_plain *plain, size_t first, size_t end);
  size_t (*unwrap)(const struct kalsae_plain *plain, size_t first, size_t end);
  size_t (*trust)(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end);
  size_t (*find)(const struct kalsae_search *search, size_t count);
  size_t (*send)(struct kalsae_departure *departure, size_t first, size_t end);
};
extern struct kalsae_eights kalsae_eights;

size_t kalsae_plain_read_eights(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_unwrap_eights(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_trust_eights(
    const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end);
size_t kalsae_plain_find_eights(const struct kalsae_search *search, size_t count);
size_t kalsae_plain_send_eights(struct kalsae_departure *departure, size_t first, size_t end);
#endif

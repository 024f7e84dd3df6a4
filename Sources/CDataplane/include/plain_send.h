#pragma once
// The fast path's look-up and way out for plain packets of known flows. The structures are those of Swift, octet for octet.
#include <stddef.h>
#include <stdint.h>

#include "plain_read.h"

/// What both families' flow slots have between the key and the rewrite.
struct kalsae_direction {
  uint32_t connection, last_seen, epoch, hop;
  uint64_t tally, octets;
};

/// Swift's `FlowRewrite4` and `FlowRewrite6`: new addresses and ports as they lie in the packet, and what they do to
/// checksums that cover the addresses alone, or all.
struct kalsae_rewrite4 {
  uint64_t addresses;
  uint32_t ports;
  uint16_t address_delta, delta;
};
struct kalsae_rewrite6 {
  uint64_t addresses[4];
  uint32_t ports;
  uint16_t address_delta, delta;
};

/// Swift's `FlowSlot`: 64 octets, and 128.
struct kalsae_slot4 {
  uint64_t key[2];
  struct kalsae_direction flow;
  struct kalsae_rewrite4 rewrite;
};
struct kalsae_slot6 {
  uint64_t key[5];
  struct kalsae_direction flow;
  struct kalsae_rewrite6 rewrite;
  uint64_t padding[2];
};

/// Swift's `HopRecord`: 128 octets.
struct kalsae_hop {
  uint8_t encapsulation, neighbour, outer_ipv6, in_use;
  uint32_t mtu;
  uint16_t outer_offset, overhead, options, header_sum;
  uint32_t serial, identifier;
  uint8_t headers[88];
  uint16_t port, length;
  uint8_t plain, traffic_class_mask;
  uint16_t plain_mtu, plain_sum, padding;
  uint32_t plain_start;
};

/// Swift's `HopState`: 20 octets.
struct kalsae_hop_state {
  uint16_t identification;
  uint32_t gre_sequence, learned_mtu, learned_until, learned_serial;
};

/// What the look-up and the way out work with.
struct kalsae_departure {
  struct kalsae_frame *frames;
  /// The columns of `PlainPackets`, as in `kalsae_plain`, and where the part begins: listed packets are numbered from there on.
  uint64_t *columns;
  size_t start;
  /// `kalsae_slot4` or `kalsae_slot6`.
  void *slots;
  const struct kalsae_hop *hops;
  /// As many as hops.
  struct kalsae_hop_state *hop_states;
  size_t frame_count, slot_count, hop_count;
  /// The packets that leave by `leaving_port`, finished; more are added. There must be room for one more for each that is
  /// sent. -1: there is no such port; the first packet's becomes it if `may_open`.
  uint16_t *leaving;
  size_t leaving_count;
  int32_t leaving_port;
  uint8_t may_open;
  uint32_t epoch, second;
  /// Whether packets go the general way where these bits of their number are all set, or whose path has taught an MTU.
  uint8_t is_careful;
  uint32_t offload_mask;
  /// See `kalsae_plain_lanes`.
  uint8_t lanes;
  /// Whether a packet that is still to be listed leaves by `leaving_port` too: to begin with 0.
  uint8_t is_overtaken;
  /// Where the run of listed packets begins that is being sent.
  size_t run;
  /// How many of the packets that were sent are still to be put on a port's list: to begin with none.
  size_t unlisted_count;
  /// How many were sent in groups: added to.
  size_t grouped_count;
};

/// What the look-up works with.
struct kalsae_search {
  /// As in `kalsae_departure`. The number of slots is a power of two, and not all of them are in use.
  uint64_t *columns;
  size_t start;
  const void *slots;
  size_t slot_count;
  const struct kalsae_hop *hops;
  /// The packets' keys, as slots begin with them.
  const void *keys;
  /// The packets that are looked up, in order.
  const uint8_t *packets;
  /// See `kalsae_plain_lanes`.
  uint8_t lanes;
  /// Whether some hop's headers are longer than the cache line that ends with the hop.
  uint8_t has_tunnels;
};

/// Finds the flows of the first `count` packets, which are of one part, and asks for the hops that they lead to: which packet it is
/// and the place of its flow, or -1, are then in the column of listed packets.
void kalsae_plain_find4(const struct kalsae_search *search, size_t count);
void kalsae_plain_find6(const struct kalsae_search *search, size_t count);

/// Sends on the packets listed from place `first` on, before `end`, as long as they are plain, their flows
/// known and current and nothing else stands in the way: counted, counted down, translated, wrapped and listed in one go,
/// each octet written once. Nothing of a packet is touched before it is sure that all of it can be done. Returns the place
/// of the first that was not sent.
///
/// What leaves by another port than `leaving_port`, or may have to be finished by its port, is sent but not listed: the
/// first `unlisted_count` entries from `first` on are then those packets', in order.
size_t kalsae_plain_send4(struct kalsae_departure *departure, size_t first, size_t end);
size_t kalsae_plain_send6(struct kalsae_departure *departure, size_t first, size_t end);

/// `kalsae_plain_send4` and `kalsae_plain_send6` for groups of packets, up to the first group that is not all plain and alike:
/// by vectors of four words.
size_t kalsae_plain_send_fours(struct kalsae_departure *departure, size_t first, size_t end);
size_t kalsae_plain_send6_fours(struct kalsae_departure *departure, size_t first, size_t end);

/// One hop less, in the third word of an IPv4 header: time to live, protocol, checksum, as they lie in memory read as a
/// little-endian number. What the sum loses in its upper octet the checksum gains, with the carry that one's complement has
/// (RFC 1141).
static inline uint32_t kalsae_count_down4(uint32_t third) {
  return __builtin_expect(third >= 0xfffe0000, 0) ? third + 0x1ffff : third + 0xffff;
}

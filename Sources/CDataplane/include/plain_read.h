#pragma once
// The fast path's parser of plain packets: some frames at a time where the processor has vectors.
#include <stddef.h>
#include <stdint.h>

/// A frame as the pipeline knows it: Swift's `Frame`, a cache line in a batch. What nearly every packet needs comes first.
struct kalsae_frame {
  uint8_t *buffer;
  uint32_t start, length, capacity;
  uint16_t port;
  /// 1: the checksum is partial; 2: it has been verified; 8: the capture is truncated.
  uint8_t flags;
  uint8_t segmentation;
  uint64_t timestamp;
  uint32_t checksum_start;
  uint16_t checksum_offset, segment_size;
  uint16_t vlan_tpid, vlan_tci;
  uint8_t tunnel_length;
  uint32_t slot, missing;
  uint64_t padding;
};

/// The packets of a part, which take their turns together; how many vectors take at a time; the columns of `PlainPackets` with
/// words of each packet, and how far they are apart: one word for each packet of a part, and a line more. (Words of a packet in
/// different columns are not to compete for one place in the cache.)
enum { kalsae_part_length = 128, kalsae_group = 8, kalsae_column_count = 8, kalsae_column_length = kalsae_part_length + 8 };

/// What frames must be, and where to leave what was read of them.
struct kalsae_plain {
  struct kalsae_frame *frames;
  /// For each frame: source and destination address; ports, transport and `tail`: the flow's key. Of IPv6 those are five words.
  uint64_t (*keys)[2];
  /// The columns of `PlainPackets`, `kalsae_column_length` words each, from where the first packet of the batch would have its
  /// words were it of the same part: the key's hash; octets 4 to 11 of the IPv4 header, or 0 to 7 of IPv6's; the mark
  /// (`PlainMark`); which packets are listed, and before that, of a frame in a tunnel, the source address of the outer header in
  /// the lower half. For the loops that take several packets at a time also where the packet's header is; the frame's place and
  /// length in its buffer; where the flow's slot and its hop are, and before that where the slot is asked for.
  uint64_t *columns;
  /// Where the flows' slots are (`kalsae_slot4` or `kalsae_slot6`), to have them ready. Their number is a power of two.
  const void *slots;
  size_t slot_count;
  /// What a key has besides.
  uint64_t tail;
  /// The octets that must be before a packet.
  uint32_t room;
  uint16_t port;
  /// See `kalsae_plain_lanes`.
  uint8_t lanes;
  /// Whether these are read one by one all the same.
  uint8_t singly;
  /// Whether there are UDP destination ports, as they lie in the packet, of frames that are not plain, and which.
  uint8_t excludes;
  uint16_t excluded[2];
  /// Eight octets each of the frame from its second octet before the first on (so that headers are aligned), and those that
  /// count; of bare frames the first three matter, the third of which is the beginning of the network-layer header. Of frames
  /// in a tunnel also the eight octets before the inner header.
  uint64_t outer[8], outer_mask[8];
  uint64_t inner, inner_mask;
  /// Of frames in a tunnel: where the inner IPv4 header is, the mark to begin with, whether there is a UDP header, and
  /// whether an outer DSCP means something to the inner packet.
  uint32_t offset;
  uint64_t mark;
  uint8_t has_udp, uniform_dscp;
  /// Whether the inner time to live may not be more than the outer one.
  uint8_t uniform_ttl;
};

/// How many words of 64 bits the processor's vectors hold: 8 (512 bits), 4 (256 bits), or 1 where there are none to use. By
/// either, `kalsae_group` packets are taken at a time. Whoever asks for less than that gets it; for more, what the processor
/// has not.
unsigned kalsae_plain_lanes(void);
/// Reads the frames from `first` on, before `end`, as long as they are plain TCP or UDP over IPv4, or IPv6. Returns the place
/// of the first that is not. Nothing of the frames is changed but the port; the slots of the packets' flows are asked for.
size_t kalsae_plain_read(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_read6(const struct kalsae_plain *plain, size_t first, size_t end);
/// The same for packets of either family in a tunnel over IPv4. Who sent them has still to be looked at.
size_t kalsae_plain_unwrap(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_unwrap6(const struct kalsae_plain *plain, size_t first, size_t end);

/// Swift's `PeerTable`: the nodes that may send in tunnels, and how they do.
struct kalsae_peers {
  /// Their number is a power of two, and not all of them are in use.
  const uint64_t *words;
  size_t count;
  uint32_t shift;
  /// The bit of the encapsulation in a word.
  uint64_t bit;
};

/// Where an address, as it lies in a packet, is looked for first: the first word of a pair.
static inline size_t kalsae_peer_place(uint32_t source, uint32_t shift) {
  return (size_t)((source * UINT64_C(0x9e3779b97f4a7c15)) >> shift) << 1;
}

/// Notes which peers packets came from that have been unwrapped, as long as those are known and may send so (NODE-4).
/// Returns the place of the first of which that is not so.
size_t kalsae_plain_trust(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end);

/// `kalsae_plain_read`, `kalsae_plain_unwrap` and those for IPv6, for groups of frames, up to the first that is not plain, or
/// that is left because there are not enough for a group: by vectors of four words.
size_t kalsae_plain_read_fours(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_unwrap_fours(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_read6_fours(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_unwrap6_fours(const struct kalsae_plain *plain, size_t first, size_t end);

/// Lists the `count` places from `first` on.
static inline void kalsae_enumerate(uint8_t *to, uint8_t first, size_t count) {
  for (size_t i = 0; i < count; i++) to[i] = (uint8_t)(first + i);
}

/// The hash of a key's two words: see Swift's `mix`.
static inline uint64_t kalsae_mix(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15) * (b ^ 0xe7037ed1a0b428db);
  return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

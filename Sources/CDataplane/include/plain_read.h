#pragma once
// The fast path's parser of plain packets over IPv4, eight frames at a time where the processor has 512-bit vectors.
#include <stddef.h>
#include <stdint.h>

/// A frame as the pipeline knows it: the fields of Swift's `Frame` that the parser reads. 56 octets.
struct kalsae_frame {
  uint8_t *buffer;
  uint32_t capacity, start, length, wire_length;
  uint64_t timestamp;
  uint32_t checksum_start;
  uint16_t checksum_offset, segment_size;
  uint16_t port, vlan_tpid, vlan_tci;
  /// 1: the checksum is partial; 8: the capture is truncated.
  uint8_t flags;
  uint8_t segmentation;
  uint8_t tunnel_length;
  uint32_t slot;
};

/// The words of a column of `PlainPackets`. Not a multiple of a page's octets: stores to one column would be mistaken for
/// loads from another.
enum { kalsae_column_length = 256 + 24 };

/// What frames must be, and where to leave what was read of them.
struct kalsae_plain {
  struct kalsae_frame *frames;
  /// For each frame: source and destination address; ports, transport and `tail`: the flow's key.
  uint64_t (*keys)[2];
  /// The columns of `PlainPackets`, `kalsae_column_length` words each, of which the first three are filled in: the key's
  /// hash, or of a frame in a tunnel the source address of the outer header, in the lower half; octets 4 to 11 of the IPv4
  /// header; the mark (`PlainMark`).
  uint64_t *columns;
  /// Where the flows' slots are (`kalsae_slot4`), to have them ready. Their number is a power of two.
  const void *slots;
  size_t slot_count;
  /// What a key has besides.
  uint64_t tail;
  /// The octets that must be before a packet.
  uint32_t room;
  uint16_t port;
  /// Whether frames are read eight at a time, where `kalsae_plain_vector` says that they can be.
  uint8_t uses_vectors;
  /// Whether there are UDP destination ports, as they lie in the packet, of frames that are not plain, and which.
  uint8_t excludes;
  uint16_t excluded[2];
  /// Eight octets each of the frame from its second octet before the first on (so that headers are aligned), and those that
  /// count; of bare frames the first three matter, the third of which is the beginning of the IPv4 header. Of frames in a
  /// tunnel also the eight octets before the inner IPv4 header, and the first eight of it.
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

/// Whether the processor has what it takes to read eight frames at a time.
int kalsae_plain_vector(void);
/// Reads the frames from `first` on, before `end`, as long as they are plain TCP or UDP over IPv4. Returns the place of the
/// first that is not. Nothing of the frames is changed but the port.
size_t kalsae_plain_read(const struct kalsae_plain *plain, size_t first, size_t end);
/// The same for frames in a tunnel over IPv4. Who sent them has still to be looked at, and the hash to be made.
size_t kalsae_plain_unwrap(const struct kalsae_plain *plain, size_t first, size_t end);

/// Notes the hashes of packets that have been read, and asks for the slots of their flows.
void kalsae_plain_hash(const struct kalsae_plain *plain, size_t first, size_t end);

/// Swift's `AddressTable` of the nodes that may send in tunnels, and how they do.
struct kalsae_peers {
  /// `kalsae_peer_slot` slots; their number is a power of two.
  const struct kalsae_peer_slot *slots;
  size_t slot_count;
  /// Of each peer, a bit for each encapsulation.
  const uint32_t *encapsulations;
  size_t count;
  /// The tag of IPv4 addresses in the table, and the bit of the encapsulation.
  uint32_t tag, bit;
};
struct kalsae_peer_slot {
  uint64_t high, low;
  uint32_t tag, value;
};

/// Notes which peers packets came from that have been unwrapped, as long as those are known and may send so (NODE-4).
/// Returns the place of the first of which that is not so.
size_t kalsae_plain_trust(const struct kalsae_plain *plain, const struct kalsae_peers *peers, size_t first, size_t end);

/// The same eight at a time, without the hash, up to the first frame that is not plain, or that is left because there are
/// not eight.
size_t kalsae_plain_read_vector(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_unwrap_vector(const struct kalsae_plain *plain, size_t first, size_t end);
size_t kalsae_plain_hash_vector(const struct kalsae_plain *plain, size_t first, size_t end);

/// Lists the `count` places from `first` on.
static inline void kalsae_enumerate(uint8_t *to, uint8_t first, size_t count) {
  for (size_t i = 0; i < count; i++) to[i] = (uint8_t)(first + i);
}

/// The hash of a key's two words: see Swift's `mix`.
static inline uint64_t kalsae_mix(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15) * (b ^ 0xe7037ed1a0b428db);
  return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

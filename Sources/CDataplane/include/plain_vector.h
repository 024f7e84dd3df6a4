#pragma once
// The fast path's parser, eight frames at a time, where the processor has 512-bit vectors.
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

/// What frames must be, and where to leave what was read of them.
struct kalsae_plain {
  struct kalsae_frame *frames;
  /// For each frame: source and destination address; ports, transport and `tail`: the flow's key. Octets 4 to 11 of the IPv4
  /// header. The mark (`PlainMark`). The source address of the outer header, in the lower half, where there is one.
  uint64_t (*keys)[2];
  uint64_t *words, *marks, *sources;
  /// What a key has besides.
  uint64_t tail;
  /// The octets that must be before a packet.
  uint32_t room;
  uint16_t port;
  /// UDP destination ports, as they lie in the packet, of frames that are not plain; 0x10000: none.
  uint32_t excluded[2];
  /// Eight octets each of the frame from its second octet before the first on (so that headers are aligned), and those that
  /// count; of frames in a tunnel also the eight octets before the inner IPv4 header.
  uint64_t outer[8], outer_mask[8];
  uint64_t inner, inner_mask;
  /// Of frames in a tunnel: where the inner IPv4 header is, the mark to begin with, whether there is a UDP header, and
  /// whether an outer DSCP means something to the inner packet.
  uint32_t offset;
  uint64_t mark;
  uint8_t has_udp, uniform_dscp;
};

/// Whether the functions below may be called.
int kalsae_plain_vector(void);
/// Reads the frames from `first` on, before `end`, as long as they are plain TCP or UDP over IPv4, eight at a time. Returns
/// the place of the first that is not, or that is left because there are not eight.
size_t kalsae_plain_read(const struct kalsae_plain *plain, size_t first, size_t end);
/// The same for frames in a tunnel over IPv4. Who sent them has still to be looked at.
size_t kalsae_plain_unwrap(const struct kalsae_plain *plain, size_t first, size_t end);

#pragma once
// Keys and values of the maps of steer.bpf.c: which packets of a device are the data plane's.
#include "ebpf_maps.h"

/// `steer_devices`, by index: all that a pod's device brings is the data plane's; of a device that is shared with the host
/// what the other maps say.
#define KALSAE_STEER_ALL 1
#define KALSAE_STEER_SHARED 2
#define KALSAE_STEER_KIND 3
/// Behind that, how many of its queues have a place in `steer_sockets`, one after the other, and the place of the first.
#define KALSAE_STEER_QUEUES 2
#define KALSAE_STEER_PLACE 12
#define KALSAE_STEER_MOST_QUEUES 1023

/// `steer_addresses`: which ports of an address are the data plane's: the number of a group in `steer_ports`, 0 for none;
/// and whether tunnels end there.
#define KALSAE_STEER_LOCAL (1u << 31)

/// `steer_prefixes`: pods and services: ours whatever is sent there. The family is compared as well.
struct kalsae_steer_prefix_key {
  __u32 length;
  /// 4 or 6.
  __u32 family;
  struct kalsae_address address;
};

/// `steer_ports`: the longest prefix, of which the first 64 bits are the group and the protocol.
struct kalsae_steer_port_key {
  __u32 length;
  __u32 group;
  __u32 transport;
  /// As on the wire.
  __u16 port;
  __u16 zero;
};

/// `steer_counts`, one set a processor.
enum kalsae_steer_counter {
  /// Handed to a socket of the data plane (AF_XDP).
  KALSAE_STEER_TAKEN,
  /// The data plane's, but no socket is there for the queue: passed on to its packet socket.
  KALSAE_STEER_NO_SOCKET,
  /// The host's.
  KALSAE_STEER_PASSED,
  KALSAE_STEER_COUNTERS,
};

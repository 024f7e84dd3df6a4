#pragma once
// Keys and values of the maps of policy.bpf.c: network policy at pods' devices. What ebpf_maps.h says of changes holds
// here too: a reader sees the old or the new.
#include "ebpf_maps.h"

/// `policy_addresses`: the place of the pod that has an address in `policy_pods`; and in the upper half, where no pod has
/// it or besides, the number of the node that has it, KALSAE_POLICY_OWN for this one's, and KALSAE_POLICY_GATEWAY for what
/// pods have as their gateway.
#define KALSAE_POLICY_NODE_SHIFT 32
#define KALSAE_POLICY_NODES 0x3fffffffu
#define KALSAE_POLICY_GATEWAY (1ull << 62)
#define KALSAE_POLICY_OWN (1ull << 63)

/// `policy_pods`: written before anything leads there, and never changed.
struct kalsae_policy_pod {
  /// The pods that no rule can tell apart from it; 0: none.
  __u32 identity;
  /// The rules for what it sends and for what is sent to it; 0: it is not isolated (NP-1).
  __u32 egress;
  __u32 ingress;
  /// The node that it runs on; 0: not known.
  __u32 node;
  /// Its device; 0: it does not run here.
  __u32 interface;
  __u32 zero;
};

/// Of the number of a set of rules: some of them ask for pods of a block (NP-5: a block, and a port by its name).
#define KALSAE_POLICY_PAIRS (1u << 31)

/// `policy_blocks`: the longest prefix of an address says which block it is in. The family is compared as well, so its 32
/// bits come on top of the prefix's.
struct kalsae_policy_block_key {
  __u32 length;
  /// 4 or 6.
  __u32 family;
  struct kalsae_address address;
};

/// `policy_rules`: what a set of rules permits a peer: of an identity, in a block, both; both 0: whoever it is.
struct kalsae_policy_rule_key {
  __u32 set;
  __u32 identity;
  __u32 block;
  __u32 zero;
};

// A permit is one word, its kind in the upper octet. A port stands with its protocol: protocol << 16 | port in host order.
/// Every protocol and port.
#define KALSAE_PERMIT_ANY 1
/// Ports from the lowest 24 bits to the next 24.
#define KALSAE_PERMIT_RANGE 2
/// The lowest 32 bits are a place in `policy_ranges`, the next 24 how many follow: first | last << 32, in order and apart.
#define KALSAE_PERMIT_LIST 3
#define KALSAE_PERMIT_SHIFT 56

/// `policy_state`: words.
enum kalsae_policy_state {
  /// Connections that were decided in another epoch are decided anew.
  KALSAE_POLICY_EPOCH,
  /// Seconds that connections may be silent: `Settings.Timeouts`.
  KALSAE_POLICY_TCP_ESTABLISHED,
  KALSAE_POLICY_TCP_TRANSIENT,
  KALSAE_POLICY_UDP,
  KALSAE_POLICY_SCTP,
  KALSAE_POLICY_ICMP,
  KALSAE_POLICY_OTHER,
  /// Seconds that the ports of fragmented datagrams are remembered.
  KALSAE_POLICY_FRAGMENT,
  /// Whether connections of TCP must begin with a SYN (KP-39).
  KALSAE_POLICY_STRICT,
  /// The ports of tunnels, which no pod may send to (NODE-4).
  KALSAE_POLICY_VXLAN,
  KALSAE_POLICY_GENEVE,
  KALSAE_POLICY_STATES,
};

/// `policy_conns`: both directions of a connection. Of two ends the lesser is the first; of an ICMP query who asks.
struct kalsae_policy_connection_key {
  struct kalsae_address first;
  struct kalsae_address second;
  /// As on the wire; of an ICMP query its identifier, twice.
  __u16 first_port;
  __u16 second_port;
  __u32 transport;
};

struct kalsae_policy_connection {
  /// Nanoseconds of CLOCK_MONOTONIC, coarse.
  __u64 last_seen;
  __u32 epoch;
  __u32 flags;
};
/// The second end opened it.
#define KALSAE_POLICY_SECOND_OPENED 1
/// Packets were seen in both directions.
#define KALSAE_POLICY_ANSWERED 2
#define KALSAE_POLICY_FIRST_FIN 4
#define KALSAE_POLICY_SECOND_FIN 8
#define KALSAE_POLICY_RESET 16

/// `policy_frags`: the ports of fragmented datagrams.
struct kalsae_policy_fragment_key {
  struct kalsae_address source;
  struct kalsae_address destination;
  __u32 identification;
  /// IPv4 only.
  __u32 transport;
};
struct kalsae_policy_fragment {
  __u64 seen;
  __u32 ports;
  /// The protocol, and in the second octet whether it is an ICMP reply.
  __u32 transport;
};

/// `policy_counts`, one set a processor. Drops have the names of the data plane's.
enum kalsae_policy_counter {
  /// Packets of connections that are known, and first packets that are let be.
  KALSAE_POLICY_KNOWN,
  KALSAE_POLICY_ALLOWED,
  /// No word of policy: address resolution.
  KALSAE_POLICY_PASSED,
  KALSAE_POLICY_DROP_EGRESS,
  KALSAE_POLICY_DROP_INGRESS,
  KALSAE_POLICY_DROP_SOURCE,
  KALSAE_POLICY_DROP_INVALID_SOURCE,
  KALSAE_POLICY_DROP_TRUNCATED,
  KALSAE_POLICY_DROP_VLAN,
  KALSAE_POLICY_DROP_ETHER_TYPE,
  KALSAE_POLICY_DROP_IPV4_HEADER,
  KALSAE_POLICY_DROP_IPV6_HEADER,
  KALSAE_POLICY_DROP_EXTENSION,
  KALSAE_POLICY_DROP_TRANSPORT,
  KALSAE_POLICY_DROP_FRAGMENT,
  KALSAE_POLICY_DROP_SOURCE_ROUTE,
  KALSAE_POLICY_DROP_MULTICAST,
  KALSAE_POLICY_DROP_DESTINATION,
  KALSAE_POLICY_DROP_TUNNEL,
  KALSAE_POLICY_DROP_NO_SYN,
  KALSAE_POLICY_COUNTERS,
};

/// `policy_samples`: a packet that was dropped.
struct kalsae_drop_sample {
  /// Nanoseconds of CLOCK_MONOTONIC.
  __u64 time;
  __u32 interface;
  /// `kalsae_policy_counter`.
  __u32 reason;
  /// Of the network-layer packet, and how much of it is here.
  __u32 length;
  __u32 count;
  __u8 octets[96];
};

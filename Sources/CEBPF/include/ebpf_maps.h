#pragma once
// Keys and values of the maps that the programs in bpf/ read and Sources/EBPF writes.
//
// A reader never sees half of a change. What is more than eight octets long is written before anything leads to it, is
// never changed, and its place is given away again only after every program that may have seen it has ended. What is
// changed in place is one aligned word of eight octets.
#include <linux/types.h>

/// Changes whenever a key or a value here does: maps of another layout are not taken over.
#define KALSAE_EBPF_LAYOUT 1

/// An address as on the wire; IPv4 as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2).
struct kalsae_address {
  __u32 word[4];
};

/// `frontends`: what packets and sockets ask for. NodePorts stand under the family's unspecified address; a cluster IP
/// that some service has stands under port 0 and protocol 0 as well (KP-37).
struct kalsae_frontend_key {
  struct kalsae_address address;
  /// As on the wire.
  __u16 port;
  __u8 transport;
  __u8 zero;
};

/// `frontend_records`: by the place that `frontends` gives.
struct kalsae_frontend {
  /// The place in `services`.
  __u32 service;
  /// `Frontend.Kind`.
  __u8 kind;
  __u8 flags;
  __u16 zero;
} __attribute__((aligned(8)));

#define KALSAE_FRONTEND_LOCAL 1
#define KALSAE_FRONTEND_RANGES 2

#define KALSAE_CLUSTER_IP 0
#define KALSAE_EXTERNAL_IP 1
#define KALSAE_LOAD_BALANCER 2
#define KALSAE_NODE_PORT 3

/// `services`: where the service port's list begins in `lists`; 0: nowhere.
struct kalsae_service {
  __u32 list;
  __u32 zero;
} __attribute__((aligned(8)));

/// `lists`: words of eight octets. A list is a head of four and then places in `backends`: of the endpoints of the
/// cluster, of those of this node, and the two Maglev tables.
#define KALSAE_LIST_COUNTS 0   // endpoints of the cluster | of the node << 32
#define KALSAE_LIST_MAGLEV 1   // lengths of the tables, likewise
#define KALSAE_LIST_AFFINITY 2 // seconds; 0: none
#define KALSAE_LIST_IDENTITY 3 // the service port's own number, the same in every agent
#define KALSAE_LIST_HEAD 4

/// `backends`: the endpoints of all service ports.
struct kalsae_backend {
  struct kalsae_address address;
  /// As on the wire.
  __u16 port;
  __u16 zero;
  __u32 zero2;
} __attribute__((aligned(8)));

/// `members`: which endpoints a service port has, for those whose connections are remembered.
struct kalsae_member_key {
  __u64 service;
  struct kalsae_address address;
  __u16 port;
  __u16 zero;
  __u32 zero2;
};
#define KALSAE_MEMBER_CLUSTER 1
#define KALSAE_MEMBER_LOCAL 2

/// `ranges`: who may connect to a frontend (KP-38); longest prefix, of which the first 32 bits are the frontend's place.
struct kalsae_range_key {
  __u32 length;
  __u32 frontend;
  struct kalsae_address address;
};

/// `addresses`: what this node's own addresses are good for.
#define KALSAE_ADDRESS_NODE_PORT 1

/// `namespaces`: the network namespaces whose sockets are looked after, by their cookie.
struct kalsae_namespace {
  /// What their connections come from, for affinity and source ranges.
  struct kalsae_address address4;
  struct kalsae_address address6;
  __u32 role;
  __u32 flags;
};
#define KALSAE_ROLE_NODE 1
#define KALSAE_ROLE_POD 2
/// Connections to cluster IPs are masqueraded (KP-34): they are left to the packet path.
#define KALSAE_NAMESPACE_FOREIGN4 1
#define KALSAE_NAMESPACE_FOREIGN6 2

/// `sockets`: forward, where a socket's datagrams to a frontend go; backward, what a peer is called towards the socket.
struct kalsae_socket_key {
  __u64 cookie;
  struct kalsae_address address;
  __u16 port;
  __u8 transport;
  __u8 direction;
  __u32 zero;
};
#define KALSAE_FORWARD 0
#define KALSAE_BACKWARD 1

struct kalsae_socket {
  struct kalsae_address address;
  __u16 port;
  __u16 zero;
  __u32 zero2;
  /// The service port's identity.
  __u64 service;
};

/// `affinity` (KP-50).
struct kalsae_affinity_key {
  struct kalsae_address client;
  __u64 service;
};
struct kalsae_affinity {
  struct kalsae_address address;
  __u16 port;
  __u16 zero;
  __u32 zero2;
  /// When it ends: nanoseconds of CLOCK_MONOTONIC.
  __u64 until;
};

/// `counters`, one set a processor.
enum kalsae_counter {
  KALSAE_TRANSLATED,
  KALSAE_REJECTED_NO_ENDPOINT,
  KALSAE_REJECTED_NO_PORT,
  KALSAE_LEFT_NO_LOCAL_ENDPOINT,
  KALSAE_LEFT_SOURCE_RANGE,
  KALSAE_LEFT_MASQUERADE,
  KALSAE_LEFT_NO_ENDPOINT,
  KALSAE_BIND_REFUSED,
  KALSAE_FULL,
  KALSAE_COUNTERS,
};

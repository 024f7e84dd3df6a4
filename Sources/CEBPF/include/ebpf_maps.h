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
  /// From here on packets, of packet_lb.h: translated and sent on, to an endpoint and back.
  KALSAE_LB_FORWARDED,
  KALSAE_LB_ANSWERED,
  KALSAE_LB_ERRORS,
  KALSAE_LB_CONNECTIONS,
  /// Dropped, as the data plane drops them: `DropReason`.
  KALSAE_LB_NO_ENDPOINT,
  KALSAE_LB_NO_LOCAL_ENDPOINT,
  KALSAE_LB_SOURCE_RANGE,
  KALSAE_LB_NO_FREE_PORT,
  /// Left to user space.
  KALSAE_LB_LEFT_REFUSAL,
  KALSAE_LB_LEFT_POLICY,
  KALSAE_LB_LEFT_ROUTE,
  KALSAE_LB_LEFT_SIZE,
  /// Lost: the kernel could not change the packet.
  KALSAE_LB_FAILED,
  /// Dropped, and answered or not for want of a rate.
  KALSAE_LB_NO_PORT,
  KALSAE_LB_LIMITED,
  KALSAE_COUNTERS,
};

// MARK: Packets to services (packet_lb.h)

/// `lb_config`, key 0: what the node's settings say. Replaced as a whole.
struct kalsae_lb_config {
  /// What masqueraded connections come from (KP-36); all zero: the node has no address of the family.
  struct kalsae_address node4;
  struct kalsae_address node6;
  /// The source ports of masqueraded connections, in host byte order: the first and how many.
  __u16 first_port;
  __u16 port_count;
  /// The UDP ports of tunnels, as on the wire: no pod may send there (NODE-4).
  __u16 vxlan_port;
  __u16 geneve_port;
  __u32 flags;
  /// Seconds that a connection may be silent: TCP that is open, TCP that opens or closes, UDP.
  __u32 tcp_established;
  __u32 tcp_transient;
  __u32 udp;
  /// What ICMP errors come from, how many a second, and how many at once.
  struct kalsae_address error4;
  struct kalsae_address error6;
  __u32 error_rate;
  __u32 error_burst;
};
#define KALSAE_LB_MASQUERADE_ALL 1
#define KALSAE_LB_LIBERAL 2
/// The cluster has blocks of the family (KP-34).
#define KALSAE_LB_BLOCKS4 4
#define KALSAE_LB_BLOCKS6 8
/// What comes from outside goes to endpoints as it is, in IPIP, and is answered from there.
#define KALSAE_LB_DIRECT 16

/// `lb_ports`: the devices whose packets are looked at, by index.
struct kalsae_lb_port {
  /// The addresses that the device's pod may send from (NODE-4); all zero: none.
  struct kalsae_address address4;
  struct kalsae_address address6;
  __u8 mac[6];
  /// Who must send.
  __u8 peer[6];
  /// What tells its packets from others' with the same addresses; 0 for all devices that are no pod's.
  __u32 zone;
  __u32 flags;
};
#define KALSAE_LB_POD 1
#define KALSAE_LB_CHECKS_PEER 2
/// What the pod sends a policy decides.
#define KALSAE_LB_EGRESS_POLICY 4
/// What the pod sends out of all pools is masqueraded (NODE-8).
#define KALSAE_LB_MASQUERADES 8

/// `lb_places`: the longest prefix of an address says where it is.
struct kalsae_place_key {
  __u32 length;
  struct kalsae_address address;
};
struct kalsae_place {
  /// The device that packets to it leave by, and their Ethernet header; for KALSAE_PLACE_FRAME and _PEER.
  __u32 interface;
  /// `kalsae_lb_port.zone` of the device that its packets come in by.
  __u32 zone;
  __u8 destination[6];
  __u8 source[6];
  /// The largest network-layer packet that may go there.
  __u16 mtu;
  __u8 kind;
  __u8 flags;
};
/// User space, or nobody, knows the way.
#define KALSAE_PLACE_LEFT 0
/// By the kernel's own routes.
#define KALSAE_PLACE_KERNEL 1
/// By the device, in the frame that is told.
#define KALSAE_PLACE_FRAME 2
/// The device is a pair's one end: the other receives the packet at once.
#define KALSAE_PLACE_PEER 3
/// A pod of this node.
#define KALSAE_PLACE_POD 1
#define KALSAE_PLACE_INGRESS_POLICY 2
/// In one of the cluster's blocks (KP-34); in a pool (NODE-8).
#define KALSAE_PLACE_CLUSTER 4
#define KALSAE_PLACE_POOL 8

/// `connections`: one direction of a connection to a service, with addresses and ports as its packets come in.
struct kalsae_connection_key {
  struct kalsae_address source;
  struct kalsae_address destination;
  __u16 source_port;
  __u16 destination_port;
  /// Where packets come in: `kalsae_lb_port.zone`.
  __u32 zone;
  __u32 transport;
};
struct kalsae_connection {
  /// What addresses and ports become.
  struct kalsae_address source;
  struct kalsae_address destination;
  __u16 source_port;
  __u16 destination_port;
  /// Where packets of the other direction come in.
  __u32 zone;
  /// The service port's identity; 0: none.
  __u64 service;
  /// Nanoseconds of CLOCK_MONOTONIC, coarse.
  __u64 last_seen;
  __u32 flags;
  __u32 zero;
};
#define KALSAE_CONNECTION_REPLY 1
/// Packets were seen in both directions.
#define KALSAE_CONNECTION_ESTABLISHED 2
/// A FIN was seen; an RST was, or a FIN of each side.
#define KALSAE_CONNECTION_FIN 4
#define KALSAE_CONNECTION_OTHER_FIN 8
#define KALSAE_CONNECTION_CLOSED 16
/// Packets are sent whole, in IPIP; answers do not come by.
#define KALSAE_CONNECTION_DIRECT 32

/// `lb_fragments`: the ports of fragmented datagrams.
struct kalsae_fragment_key {
  struct kalsae_address source;
  struct kalsae_address destination;
  __u32 zone;
  __u32 identification;
  __u32 transport;
};
struct kalsae_fragment {
  __u16 source_port;
  __u16 destination_port;
  __u32 zero;
  __u64 seen;
};

// MARK: Flows that are carried in the kernel (overlay.bpf.c)

/// `flows`: one direction of a flow, as the packet path's own flow key: addresses and ports as they lie in the packet.
struct kalsae_flow_key {
  __u32 source;
  __u32 destination;
  __u16 source_port;
  __u16 destination_port;
  __u8 transport;
  /// Set in every key of the packet path.
  __u8 used;
  /// Where the packet comes in: `kalsae_port.zone`.
  __u16 zone;
};
#define KALSAE_FLOW_USED 0x80

/// The longest header that is put before a packet: Ethernet, IPv4, UDP, VXLAN or Geneve, Ethernet.
#define KALSAE_FLOW_HEADER 64

/// What becomes of the packets of a flow. Whole while `epoch` is the one in `overlay_epoch`; what follows `header` is
/// the program's.
struct kalsae_flow {
  __u32 epoch;
  /// The device that packets leave by.
  __u32 out;
  /// The largest network-layer packet that may leave so, without outer headers.
  __u32 mtu;
  /// The tunnel that packets come in: who sends them, to which of the node's addresses, and the VNI.
  __u32 in_source;
  __u32 in_destination;
  __u32 in_identifier;
  /// `Encapsulation` of what comes in and of what goes out.
  __u8 in_kind;
  __u8 out_kind;
  __u8 flags;
  /// The bits of the traffic class that the outer header takes over (TUN-5, TUN-6).
  __u8 class_mask;
  /// Sum of the outer IPv4 header as in `header` and of its overhead, in host byte order.
  __u16 sum;
  /// What translation does to checksums over the addresses; as it lies in memory.
  __u16 address_delta;
  __u32 source;
  __u32 destination;
  __u16 source_port;
  __u16 destination_port;
  /// What is put before the packet; begins with Ethernet.
  __u8 header[KALSAE_FLOW_HEADER];
  __u32 zero;
  /// Nanoseconds of CLOCK_MONOTONIC, coarse.
  __u64 last_seen;
  __u64 packets;
  /// Of the network-layer packets as they come out of a pod or a tunnel.
  __u64 octets;
};
/// The packet's addresses and ports become those here.
#define KALSAE_FLOW_TRANSLATE 1
/// `out` is a pair's one end: the packet is received by the other at once.
#define KALSAE_FLOW_TO_PEER 2
/// Nothing of the outer header is to be carried over: the class is the packet's own, the time to live not smaller (TUN-6).
#define KALSAE_FLOW_SAME_CLASS 4
#define KALSAE_FLOW_LONGER_LIFE 8
/// No super-frame goes this way: a device cannot cut it.
#define KALSAE_FLOW_NO_SUPER_FRAMES 16

/// `overlay_ports`: the devices that the programs look after, by index.
struct kalsae_port {
  __u8 mac[6];
  /// Who must send (NODE-4).
  __u8 peer[6];
  __u16 zone;
  __u8 checks_peer;
  __u8 is_underlay;
  /// As on the wire; 0: none. For the underlay only.
  __u16 vxlan_port;
  __u16 geneve_port;
  /// The Ethernet address inside VXLAN and Geneve packets to this node.
  __u8 vtep[6];
  __u16 zero;
};

/// `overlay_counts`, one set a processor.
enum kalsae_overlay_counter {
  KALSAE_OVERLAY_CARRIED,
  KALSAE_OVERLAY_CARRIED_OCTETS,
  /// Not a whole TCP or UDP packet over IPv4 without options, or not for this node.
  KALSAE_OVERLAY_NOT_PLAIN,
  /// TCP that opens or closes.
  KALSAE_OVERLAY_CONTROL,
  KALSAE_OVERLAY_UNKNOWN,
  /// Something has changed since the flow was entered.
  KALSAE_OVERLAY_STALE,
  /// Came another way than the flow's packets do.
  KALSAE_OVERLAY_OTHER_WAY,
  /// Too big, or at the end of its time to live.
  KALSAE_OVERLAY_EXCEEDS,
  /// Lost: the kernel could not change the packet.
  KALSAE_OVERLAY_FAILED,
  KALSAE_OVERLAY_COUNTERS,
};

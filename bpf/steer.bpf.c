// Which packets are the data plane's, before the kernel has made its own of them: those go to its AF_XDP sockets, all others
// on. Where there is no socket ours go on as well, to the packet socket that is behind.
//
// The predicate is `PacketClassifier`'s; what it shares with the host (ICMP errors, later fragments without ports) goes on,
// because the host must get it too. Tags of VLANs that a device has stripped nobody sees here: a device whose packets are
// steered should leave them in.
#include "kernel.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "ebpf_steer.h"

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, __u32);
  __type(value, __u32);
} steer_devices SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, struct kalsae_address);
  __type(value, __u32);
} steer_addresses SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_steer_prefix_key);
  __type(value, __u32);
} steer_prefixes SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_steer_port_key);
  __type(value, __u32);
} steer_ports SEC(".maps");

/// The IP protocols of tunnels, a bit each.
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} steer_protocols SEC(".maps");

/// Addresses that the data plane answers for by ARP and neighbour discovery.
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, struct kalsae_address);
  __type(value, __u32);
} steer_targets SEC(".maps");

/// The data plane's sockets, by the place that the device's queue has.
struct {
  __uint(type, BPF_MAP_TYPE_XSKMAP);
  __uint(max_entries, 16384);
  __type(key, __u32);
  __type(value, __u32);
} steer_sockets SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, KALSAE_STEER_COUNTERS);
  __type(key, __u32);
  __type(value, __u64);
} steer_counts SEC(".maps");

static __always_inline void count(__u32 what) {
  __u64 *counter = bpf_map_lookup_elem(&steer_counts, &what);
  if (counter) *counter += 1;
}

/// A part of a frame; 0 where the frame ends before it does.
static __always_inline void *part(const struct xdp_md *frame, __u32 offset, __u32 length) {
  // Said to the verifier: no further than any frame.
  if (offset > 4096) return 0;
  void *start = (void *)(long)frame->data + offset;
  return start + length > (void *)(long)frame->data_end ? 0 : start;
}

static __always_inline bool is_tunnel(__u32 protocol) {
  __u32 key = protocol >> 6 & 3;
  __u64 *bits = bpf_map_lookup_elem(&steer_protocols, &key);
  return bits && *bits >> (protocol & 63) & 1;
}

static __always_inline bool is_target(const struct kalsae_address *address) {
  return bpf_map_lookup_elem(&steer_targets, address) != 0;
}

/// Whether a port of an address is ours; `offset` is the transport's header.
static __always_inline bool is_door(const struct xdp_md *frame, __u32 offset, __u32 group, __u32 transport) {
  __u16 *port = part(frame, offset + 2, 2);
  if (!port) return false;
  struct kalsae_steer_port_key key = {.length = 80, .group = group, .transport = transport, .port = *port};
  return bpf_map_lookup_elem(&steer_ports, &key) != 0;
}

static __always_inline bool is_in_prefix(const struct kalsae_address *address, __u32 family) {
  struct kalsae_steer_prefix_key key = {.length = 160, .family = family, .address = *address};
  return bpf_map_lookup_elem(&steer_prefixes, &key) != 0;
}

static __always_inline bool is_ours4(const struct xdp_md *frame) {
  struct iphdr *ip = part(frame, ETH_HLEN, sizeof *ip);
  if (!ip) return false;
  struct kalsae_address destination = {.word = {0, 0, bpf_htonl(0xffff), ip->daddr}};
  if (is_in_prefix(&destination, 4)) return true;
  __u32 *found = bpf_map_lookup_elem(&steer_addresses, &destination);
  if (!found) return false;
  if (*found & KALSAE_STEER_LOCAL && is_tunnel(ip->protocol)) return true;
  if (ip->frag_off & bpf_htons(0x1fff)) return false;
  return is_door(frame, ETH_HLEN + (*(const __u8 *)ip & 15) * 4, *found & ~KALSAE_STEER_LOCAL, ip->protocol);
}

static __always_inline bool is_ours6(const struct xdp_md *frame) {
  struct ipv6hdr *ip = part(frame, ETH_HLEN, sizeof *ip);
  if (!ip) return false;
  struct kalsae_address destination;
  __builtin_memcpy(&destination, &ip->daddr, sizeof destination);
  __u32 offset = ETH_HLEN + sizeof *ip, next = ip->nexthdr;
  if (next == IPPROTO_ICMPV6) {
    // A neighbour solicitation tells whom it asks for.
    __u8 *type = part(frame, offset, 24);
    struct kalsae_address target;
    if (type && *type == 135) {
      __builtin_memcpy(&target, type + 8, sizeof target);
      if (is_target(&target)) return true;
    }
  }
  if (is_in_prefix(&destination, 6)) return true;
  __u32 *found = bpf_map_lookup_elem(&steer_addresses, &destination);
  if (!found) return false;
  // Destination options come before the inner packet of RFC 2473 tunnels (the encapsulation limit), a fragment header
  // anywhere; in this order, each at most once.
  if (next == 60) {
    __u8 *head = part(frame, offset, 2);
    if (!head) return false;
    next = head[0];
    offset += (head[1] + 1) * 8;
  }
  bool is_later = false;
  if (next == 44) {
    __u8 *head = part(frame, offset, 4);
    if (!head) return false;
    next = head[0];
    is_later = head[2] | (head[3] & 0xf8);
    offset += 8;
  }
  if (*found & KALSAE_STEER_LOCAL && is_tunnel(next)) return true;
  return !is_later && is_door(frame, offset, *found & ~KALSAE_STEER_LOCAL, next);
}

static __always_inline bool is_ours(const struct xdp_md *frame, __u32 kind) {
  if (kind == KALSAE_STEER_ALL) return true;
  __u16 *type = part(frame, ETH_HLEN - 2, 2);
  if (!type) return false;
  switch (*type) {
  case bpf_htons(ETH_P_IP): return is_ours4(frame);
  case bpf_htons(ETH_P_IPV6): return is_ours6(frame);
  case bpf_htons(ETH_P_ARP): {
    // RFC 826: a request for IPv4 over Ethernet, and whom it asks for.
    __u8 *arp = part(frame, ETH_HLEN, 28);
    if (!arp || arp[0] | (arp[1] ^ 1) | (arp[2] ^ 8) | arp[3] || arp[4] != 6 || arp[5] != 4 || arp[6] | (arp[7] ^ 1))
      return false;
    struct kalsae_address target = {.word = {0, 0, bpf_htonl(0xffff), 0}};
    __builtin_memcpy(&target.word[3], arp + 24, 4);
    return is_target(&target);
  }
  default: return false;
  }
}

SEC("xdp") int steer(struct xdp_md *frame) {
  __u32 interface = frame->ingress_ifindex;
  __u32 *device = bpf_map_lookup_elem(&steer_devices, &interface);
  if (!device || !is_ours(frame, *device & KALSAE_STEER_KIND)) {
    count(KALSAE_STEER_PASSED);
    return XDP_PASS;
  }
  // Place 0 is nobody's.
  __u32 queues = *device >> KALSAE_STEER_QUEUES & KALSAE_STEER_MOST_QUEUES;
  __u32 place = frame->rx_queue_index < queues ? (*device >> KALSAE_STEER_PLACE) + frame->rx_queue_index : 0;
  int verdict = (int)bpf_redirect_map(&steer_sockets, place, XDP_PASS);
  count(verdict == XDP_REDIRECT ? KALSAE_STEER_TAKEN : KALSAE_STEER_NO_SOCKET);
  return verdict;
}

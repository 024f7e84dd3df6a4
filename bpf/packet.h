#pragma once
// Packets as tc_lb and xdp_lb see them, and the maps that they share beside those of the services. Whoever includes this
// says before how octets of a packet are read and written: `load`, `store`, `mend` and `struct context`.
#include "services.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#define AF_INET 2
#define AF_INET6 10

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct kalsae_lb_config);
} lb_config SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 4096);
  __type(key, __u32);
  __type(value, struct kalsae_lb_port);
} lb_ports SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_place_key);
  __type(value, struct kalsae_place);
} lb_places SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_connection_key);
  __type(value, struct kalsae_connection);
} connections SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 4096);
  __type(key, struct kalsae_fragment_key);
  __type(value, struct kalsae_fragment);
} lb_fragments SEC(".maps");

/// A socket of the data plane that runs. The kernel takes it out when that process ends, in whatever way.
struct {
  __uint(type, BPF_MAP_TYPE_SOCKMAP);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} lb_lease SEC(".maps");

enum fragment { WHOLE, FIRST, LATER };

/// A packet, and what is to become of it. Too large for the stack: in a place of the processor's own.
struct work {
  struct kalsae_connection_key key;
  struct kalsae_connection next;
  struct kalsae_connection_key reply;
  struct kalsae_connection back;
  struct kalsae_fragment_key fragment_key;
  struct question question;
  struct answer answer;
  struct kalsae_place place;
  /// The network-layer packet's length, and how long each packet is that it becomes.
  __u32 length;
  __u32 segment;
  /// Where the transport header is.
  __u32 transport;
  /// Octets behind the packet.
  __u32 padding;
  __u16 check;
  __u8 time_to_live;
  __u8 tcp_flags;
  __u8 fragment;
  bool is_v4;
  bool is_error;
  /// Sent whole, in IPIP, from `outer`.
  bool is_direct;
  __u32 outer;
  __u64 now;
  /// What is counted when it has been sent.
  __u32 counter;
  /// Where a quoted packet begins.
  __u32 quoted;
  /// What was read, its network-layer header aligned.
  struct {
    __u16 align;
    __u8 destination[6];
    __u8 source[6];
    __u16 type;
    union {
      struct iphdr ip;
      struct ipv6hdr ip6;
    };
  } head;
  union {
    struct tcphdr tcp;
    struct udphdr udp;
    __u8 octets[48];
    __u32 words[12];
  };
  /// The network-layer addresses as they lie in a packet, before and after.
  __u32 before[8];
  __u32 after[8];
};

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct work);
} lb_work SEC(".maps");

enum act { PASS, DROP, SEND, REFUSE };

static __always_inline bool is_same_mac(const __u8 *a, const __u8 *b) {
  return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

static __always_inline bool is_zero(const struct kalsae_address *a) {
  return !(a->word[0] | a->word[1] | a->word[3]) && (!a->word[2] || a->word[2] == bpf_htonl(0xffff));
}

static __always_inline __u32 fold(__u32 sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

static __always_inline void set_v4(struct kalsae_address *address, __u32 word) {
  address->word[0] = 0;
  address->word[1] = 0;
  address->word[2] = bpf_htonl(0xffff);
  address->word[3] = word;
}

/// The high and the low half of a product of 64 bits each, folded: `mix` of the user-space path.
static __always_inline __u64 mix(__u64 a, __u64 b) {
  a ^= 0x9e3779b97f4a7c15ull;
  b ^= 0xe7037ed1a0b428dbull;
  __u64 a0 = (__u32)a, a1 = a >> 32, b0 = (__u32)b, b1 = b >> 32;
  __u64 low = a0 * b0, middle = a1 * b0 + (low >> 32), other = a0 * b1 + (__u32)middle;
  __u64 high = a1 * b1 + (middle >> 32) + (other >> 32);
  return high ^ (other << 32 | (__u32)low);
}

/// `IPAddress.word` of the user-space path.
static __always_inline __u64 word_of(const struct kalsae_address *a) {
  if (is_ipv4(a)) return bpf_ntohl(a->word[3]);
  return ((__u64)bpf_ntohl(a->word[0]) << 32 | bpf_ntohl(a->word[1])) +
         ((__u64)bpf_ntohl(a->word[2]) << 32 | bpf_ntohl(a->word[3]));
}

/// Whether the data plane runs: then packets are its own.
static __always_inline bool is_leased(void) {
  __u32 zero = 0;
  struct bpf_sock *owner = bpf_map_lookup_elem(&lb_lease, &zero);
  if (!owner) return false;
  bpf_sk_release(owner);
  return true;
}

/// Whether an address may be a packet's source or a connection's destination at all.
static __always_inline bool is_unicast(const struct kalsae_address *a) {
  if (is_ipv4(a)) {
    __u32 first = bpf_ntohl(a->word[3]) >> 24;
    return first && first != 127 && first < 224;
  }
  __u32 first = bpf_ntohl(a->word[0]);
  // Multicast, link-local; the unspecified address and loopback.
  if (first >> 24 == 0xff || first >> 22 == 0xfe80 >> 6) return false;
  return a->word[0] | a->word[1] | a->word[2] || bpf_ntohl(a->word[3]) > 1;
}

/// Reads a packet's headers. False where user space has to look at it.
static __always_inline bool read(struct context *ctx, __u32 size, const struct kalsae_lb_port *port, struct work *w) {
  if (size < ETH_HLEN + 28) return false;
  if (load(ctx, 0, w->head.destination, ETH_HLEN + 20)) return false;
  if (!is_same_mac(w->head.destination, port->mac)) return false;
  if (port->flags & KALSAE_LB_CHECKS_PEER && !is_same_mac(w->head.source, port->peer)) return false;
  __u32 rest = size - ETH_HLEN;
  w->fragment = WHOLE;
  w->is_error = false;
  if (w->head.type == bpf_htons(ETH_P_IP)) {
    const struct iphdr *ip = &w->head.ip;
    const __u16 *word = (const __u16 *)ip;
    __u32 sum = 0;
#pragma unroll
    for (int i = 0; i < 10; i++) sum += word[i];
    if (*(const __u8 *)ip != 0x45 || fold(sum) != 0xffff) return false;
    w->is_v4 = true;
    w->length = bpf_ntohs(ip->tot_len);
    set_v4(&w->key.source, ip->saddr);
    set_v4(&w->key.destination, ip->daddr);
    w->key.transport = ip->protocol;
    w->time_to_live = ip->ttl;
    w->check = ip->check;
    w->transport = ETH_HLEN + 20;
    if (ip->frag_off & bpf_htons(0x3fff)) {
      w->fragment = ip->frag_off & bpf_htons(0x1fff) ? LATER : FIRST;
      w->fragment_key.source = w->key.source;
      w->fragment_key.destination = w->key.destination;
      w->fragment_key.identification = ip->id;
      w->fragment_key.transport = ip->protocol;
      w->fragment_key.zone = w->key.zone;
    }
  } else if (w->head.type == bpf_htons(ETH_P_IPV6)) {
    if (size < ETH_HLEN + 48 || load(ctx, ETH_HLEN, &w->head.ip6, 40)) return false;
    const struct ipv6hdr *ip = &w->head.ip6;
    if (ip->version != 6) return false;
    w->is_v4 = false;
    w->length = 40 + bpf_ntohs(ip->payload_len);
    __builtin_memcpy(&w->key.source, &ip->saddr, 16);
    __builtin_memcpy(&w->key.destination, &ip->daddr, 16);
    // An IPv4 address in its clothes is none of ours.
    if (is_ipv4(&w->key.source) || is_ipv4(&w->key.destination)) return false;
    w->key.transport = ip->nexthdr;
    w->time_to_live = ip->hop_limit;
    w->transport = ETH_HLEN + 40;
  } else {
    return false;
  }
  if (w->length > rest || w->length < w->transport - ETH_HLEN + 8) return false;
  w->padding = rest - w->length;
  w->tcp_flags = 0;
  __u32 payload = w->length - (w->transport - ETH_HLEN), header = 8;
  if (w->fragment == LATER) {
    const struct kalsae_fragment *first = bpf_map_lookup_elem(&lb_fragments, &w->fragment_key);
    // KP: a datagram is waited for half a minute.
    if (!first || first->seen + 30000000000ull < w->now) return false;
    w->key.source_port = first->source_port;
    w->key.destination_port = first->destination_port;
    return w->key.transport == IPPROTO_TCP || w->key.transport == IPPROTO_UDP;
  }
  if (w->key.transport == IPPROTO_TCP) {
    if (payload < 20 || load(ctx, w->transport, w->octets, 20)) return false;
    w->tcp_flags = w->octets[13];
    header = w->tcp.doff * 4;
    w->key.source_port = w->tcp.source;
    w->key.destination_port = w->tcp.dest;
  } else if (w->key.transport == IPPROTO_UDP) {
    if (load(ctx, w->transport, w->octets, 8)) return false;
    w->key.source_port = w->udp.source;
    w->key.destination_port = w->udp.dest;
  } else if (w->key.transport == (w->is_v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
    if (w->fragment != WHOLE || load(ctx, w->transport, w->octets, 8)) return false;
    __u8 type = w->octets[0];
    w->is_error = w->is_v4 ? type == 3 || type == 11 || type == 12 || type == 4 : type < 128;
    return w->is_error;
  } else {
    return false;
  }
  w->segment = w->segment ? w->transport - ETH_HLEN + header + w->segment : w->length;
  return true;
}

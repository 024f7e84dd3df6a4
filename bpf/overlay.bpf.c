// Flows that user space has decided are carried on in the kernel: from a pod into a tunnel, out of a tunnel to a pod, from
// pod to pod. Every packet of which anything is not as the flow's packets are goes to user space, as all packets do without
// this; so these programs never decide, drop or answer.
//
// Two programs see a packet, one directly after the other on the same processor: `overlay_filter` at the packet socket says
// whether user space gets it, `overlay_carry` at tc carries it if it does not. The first one's word counts (`overlay_turn`),
// so that a packet is neither lost nor sent twice when a flow is entered or ends between the two. Where there is no
// socket, because the agent is gone, the second decides alone.
#include "kernel.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct kalsae_flow_key);
  __type(value, struct kalsae_flow);
} overlay_flows SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} overlay_epoch SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 4096);
  __type(key, __u32);
  __type(value, struct kalsae_port);
} overlay_ports SEC(".maps");

/// What else the packet socket of the underlay takes: 0, a program made of the socket's own classic filter.
struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
} overlay_claims SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, KALSAE_OVERLAY_COUNTERS);
  __type(key, __u32);
  __type(value, __u64);
} overlay_counts SEC(".maps");

static __always_inline void count(__u32 what, __u64 number) {
  __u64 *counter = bpf_map_lookup_elem(&overlay_counts, &what);
  if (counter) *counter += number;
}

enum { NONE, IPIP, GRE, VXLAN, GENEVE };

/// The beginning of a frame, its network-layer header aligned.
struct head {
  __u16 align;
  __u8 destination[6];
  __u8 source[6];
  __u16 type;
  struct iphdr ip;
  union {
    struct tcphdr tcp;
    struct udphdr udp;
    __u8 octets[20];
  };
};

/// A packet as the flow's fields want it.
struct packet {
  struct kalsae_flow_key key;
  /// Where the network-layer header is.
  __u32 offset;
  /// The network-layer packet's length.
  __u32 length;
  /// How long each packet is that this one becomes.
  __u32 segment;
  __u32 in_source;
  __u32 in_destination;
  __u32 in_identifier;
  __u16 check;
  __u8 in_kind;
  __u8 traffic_class;
  __u8 time_to_live;
  /// Of the outer header.
  __u8 outer_class;
  __u8 outer_life;
  bool may_fragment;
};

enum verdict { TURN_NONE, TURN_USER, TURN_CARRY };

/// What the socket's filter has said of the packet that tc sees next.
struct turn {
  __u32 verdict;
  __u32 interface;
  __u32 length;
  struct packet packet;
};

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct turn);
} overlay_turn SEC(".maps");

static __always_inline bool is_same_mac(const __u8 *a, const __u8 *b) {
  return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

static __always_inline __u32 fold(__u32 sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

/// A whole packet without options whose header is right.
static __always_inline bool is_plain(const struct iphdr *ip) {
  const __u16 *word = (const __u16 *)ip;
  __u32 sum = 0;
#pragma unroll
  for (int i = 0; i < 10; i++) sum += word[i];
  return *(const __u8 *)ip == 0x45 && !(ip->frag_off & bpf_htons(0x3fff)) && fold(sum) == 0xffff;
}

/// Reads a packet. False where user space has to look at it.
static __always_inline bool read(struct __sk_buff *skb, const struct kalsae_port *port, struct packet *p) {
  struct head h = {};
  if (skb->len < ETH_HLEN + 28 || skb->vlan_present) return false;
  // Two lengths, because short datagrams are shorter than TCP's header.
  if (skb->len >= ETH_HLEN + 40 ? bpf_skb_load_bytes(skb, 0, h.destination, ETH_HLEN + 40)
                                : bpf_skb_load_bytes(skb, 0, h.destination, ETH_HLEN + 28))
    return false;
  if (h.type != bpf_htons(ETH_P_IP) || !is_same_mac(h.destination, port->mac)) return false;
  if (port->checks_peer && !is_same_mac(h.source, port->peer)) return false;
  if (!is_plain(&h.ip)) return false;
  __u32 length = bpf_ntohs(h.ip.tot_len), rest = skb->len - ETH_HLEN;
  p->offset = ETH_HLEN;
  p->in_kind = NONE;
  if (port->is_underlay && h.ip.protocol != IPPROTO_TCP) {
    __u32 skip = 0;
    if (h.ip.protocol == IPPROTO_UDP) {
      if (h.udp.dest == port->vxlan_port && port->vxlan_port) {
        // TUN-3: of the flags only I counts.
        if (!(h.octets[8] & 0x08)) return false;
        p->in_kind = VXLAN;
      } else if (h.udp.dest == port->geneve_port && port->geneve_port) {
        // Version 0, no options, no control packet, Ethernet inside.
        if (h.octets[8] | h.octets[9] || h.octets[10] != 0x65 || h.octets[11] != 0x58) return false;
        p->in_kind = GENEVE;
      }
      if (p->in_kind != NONE) {
        // No checksum, and a length that is the packet's.
        if (h.udp.check || bpf_ntohs(h.udp.len) != length - 20) return false;
        p->in_identifier = (__u32)h.octets[12] << 16 | (__u32)h.octets[13] << 8 | h.octets[14];
        skip = 20 + 8 + 8 + ETH_HLEN;
      }
    } else if (h.ip.protocol == IPPROTO_IPIP) {
      p->in_kind = IPIP;
      skip = 20;
    } else if (h.ip.protocol == IPPROTO_GRE) {
      // No checksum, key and sequence number; IPv4 inside.
      if (h.octets[0] | h.octets[1] || h.octets[2] != 0x08 || h.octets[3]) return false;
      p->in_kind = GRE;
      skip = 24;
    }
    if (p->in_kind != NONE) {
      p->in_source = h.ip.saddr;
      p->in_destination = h.ip.daddr;
      p->outer_class = h.ip.tos;
      p->outer_life = h.ip.ttl;
      // What comes behind the packet is nobody's.
      if (length != rest || rest < skip + 28) return false;
      p->offset = ETH_HLEN + skip;
      rest -= skip;
      if (skip == 50) {
        if (bpf_skb_load_bytes(skb, ETH_HLEN + 36, h.destination, ETH_HLEN)) return false;
        if (h.type != bpf_htons(ETH_P_IP) || !is_same_mac(h.destination, port->vtep)) return false;
      }
      if (rest >= 40 ? bpf_skb_load_bytes(skb, p->offset, &h.ip, 40) : bpf_skb_load_bytes(skb, p->offset, &h.ip, 28))
        return false;
      if (!is_plain(&h.ip)) return false;
      // TUN-5: nothing to carry over.
      if (p->outer_class & 3 && (p->outer_class ^ h.ip.tos) & 3) return false;
      length = bpf_ntohs(h.ip.tot_len);
    }
  }
  // Padding must not get into a tunnel.
  if (length != rest) return false;
  __u32 header;
  if (h.ip.protocol == IPPROTO_TCP) {
    if (rest < 40) return false;
    header = 20 + h.tcp.doff * 4;
    // What opens and closes connections is more than a packet.
    if (((const __u8 *)&h.tcp)[13] & 0x07) {
      count(KALSAE_OVERLAY_CONTROL, 1);
      return false;
    }
    p->key.source_port = h.tcp.source;
    p->key.destination_port = h.tcp.dest;
  } else if (h.ip.protocol == IPPROTO_UDP) {
    header = 28;
    p->key.source_port = h.udp.source;
    p->key.destination_port = h.udp.dest;
  } else {
    return false;
  }
  p->key.source = h.ip.saddr;
  p->key.destination = h.ip.daddr;
  p->key.transport = h.ip.protocol;
  p->key.used = KALSAE_FLOW_USED;
  p->key.zone = port->zone;
  p->length = length;
  p->segment = skb->gso_size ? header + skb->gso_size : length;
  p->check = h.ip.check;
  p->traffic_class = h.ip.tos;
  p->time_to_live = h.ip.ttl;
  p->may_fragment = !(h.ip.frag_off & bpf_htons(0x4000));
  return true;
}

/// The flow that carries a packet; none where user space does.
static __always_inline struct kalsae_flow *decide(struct __sk_buff *skb, struct packet *p) {
  __u32 interface = skb->ifindex, zero = 0;
  struct kalsae_port *port = bpf_map_lookup_elem(&overlay_ports, &interface);
  if (!port) return 0;
  if (!read(skb, port, p)) {
    count(KALSAE_OVERLAY_NOT_PLAIN, 1);
    return 0;
  }
  struct kalsae_flow *flow = bpf_map_lookup_elem(&overlay_flows, &p->key);
  if (!flow) {
    count(KALSAE_OVERLAY_UNKNOWN, 1);
    return 0;
  }
  __u32 *epoch = bpf_map_lookup_elem(&overlay_epoch, &zero);
  if (!epoch || flow->epoch != *(volatile __u32 *)epoch) {
    count(KALSAE_OVERLAY_STALE, 1);
    return 0;
  }
  if (flow->in_kind != p->in_kind ||
      (p->in_kind != NONE && (flow->in_source != p->in_source || flow->in_destination != p->in_destination)) ||
      (p->in_kind >= VXLAN && flow->in_identifier != p->in_identifier) ||
      (flow->flags & KALSAE_FLOW_SAME_CLASS && p->outer_class != p->traffic_class) ||
      (flow->flags & KALSAE_FLOW_LONGER_LIFE && p->outer_life < p->time_to_live)) {
    count(KALSAE_OVERLAY_OTHER_WAY, 1);
    return 0;
  }
  if (p->time_to_live <= 1 || p->segment > flow->mtu ||
      (flow->flags & KALSAE_FLOW_NO_SUPER_FRAMES && skb->gso_size)) {
    count(KALSAE_OVERLAY_EXCEEDS, 1);
    return 0;
  }
  return flow;
}

/// Whether user space gets a packet; notes the answer for `overlay_carry`.
static __always_inline bool is_wanted(struct __sk_buff *skb) {
  __u32 zero = 0;
  struct turn *turn = bpf_map_lookup_elem(&overlay_turn, &zero);
  if (!turn) return true;
  struct packet p = {};
  bool is_carried = decide(skb, &p) != 0;
  turn->interface = skb->ifindex;
  turn->length = skb->len;
  turn->packet = p;
  turn->verdict = is_carried ? TURN_CARRY : TURN_USER;
  return !is_carried;
}

/// At a packet socket that takes everything: 0 for what tc carries.
SEC("socket") int overlay_filter(struct __sk_buff *skb) { return is_wanted(skb) ? -1 : 0; }

/// At a packet socket that takes some packets only.
SEC("socket") int overlay_claim(struct __sk_buff *skb) {
  if (!is_wanted(skb)) return 0;
  bpf_tail_call(skb, &overlay_claims, 0);
  return -1;
}

/// The flow of a packet, as the filter has decided or, without one, as it is decided here.
static __always_inline struct kalsae_flow *take_turn(struct __sk_buff *skb, struct packet *p) {
  __u32 zero = 0;
  struct turn *turn = bpf_map_lookup_elem(&overlay_turn, &zero);
  if (!turn) return 0;
  __u32 verdict = turn->verdict;
  turn->verdict = TURN_NONE;
  // Another packet's word: tc did not see that one.
  if (turn->interface != skb->ifindex || turn->length != skb->len) verdict = TURN_NONE;
  if (verdict == TURN_USER) return 0;
  if (verdict == TURN_CARRY) {
    *p = turn->packet;
    __u32 word[3];
    if (!bpf_skb_load_bytes(skb, p->offset + 12, word, sizeof word) && word[0] == p->key.source &&
        word[1] == p->key.destination &&
        word[2] == ((__u32)p->key.source_port | (__u32)p->key.destination_port << 16)) {
      struct kalsae_flow *flow = bpf_map_lookup_elem(&overlay_flows, &p->key);
      // It ended a moment ago: user space did not get the packet, and will not miss it.
      if (!flow) count(KALSAE_OVERLAY_FAILED, 1);
      return flow;
    }
  }
  return decide(skb, p);
}

/// Puts an outer IPv4 header's fields in that depend on the packet: `finishPlain` of the packet path.
static __always_inline void finish(__u8 *header, const struct kalsae_flow *flow, const struct packet *p, __u32 overhead) {
  struct iphdr *ip = (struct iphdr *)(header + ETH_HLEN);
  __u8 carried = p->traffic_class & flow->class_mask;
  __u32 sum = (__u32)flow->sum + carried + p->length;
  ip->tos |= carried;
  ip->tot_len = bpf_htons((__u16)(p->length + overhead));
  // An atomic packet needs no identification (RFC 6864).
  __u16 identification = 0, fragment = 0x4000;
  if (p->may_fragment) {
    identification = (__u16)bpf_get_prandom_u32();
    fragment = 0;
  }
  sum += identification + fragment;
  ip->id = bpf_htons(identification);
  ip->frag_off = bpf_htons(fragment);
  ip->check = bpf_htons((__u16)~fold(sum));
}

/// Gives the packet new addresses and ports, and one hop less.
static __always_inline bool rewrite(struct __sk_buff *skb, const struct kalsae_flow *flow, const struct packet *p) {
  struct {
    __u8 time_to_live, protocol;
    __u16 check;
    __u32 source, destination;
  } fields = {p->time_to_live - 1, p->key.transport, 0, p->key.source, p->key.destination};
  __u32 sum = (__u16)~p->check + (__u32)bpf_htons(0xfeff);
  if (flow->flags & KALSAE_FLOW_TRANSLATE) {
    __u32 transport = p->offset + 20;
    bool is_tcp = p->key.transport == IPPROTO_TCP;
    // TUN-9: no checksum stays none.
    __u64 flags = is_tcp ? 0 : BPF_F_MARK_MANGLED_0;
    __u32 check = transport + (is_tcp ? 16 : 6);
    __u32 ports = (__u32)flow->source_port | (__u32)flow->destination_port << 16;
    __u32 before = (__u32)p->key.source_port | (__u32)p->key.destination_port << 16;
    if (bpf_l4_csum_replace(skb, check, 0, flow->address_delta, flags | BPF_F_PSEUDO_HDR)) return false;
    if (bpf_l4_csum_replace(skb, check, before, ports, flags | 4)) return false;
    if (bpf_skb_store_bytes(skb, transport, &ports, 4, 0)) return false;
    sum += flow->address_delta;
    fields.source = flow->source;
    fields.destination = flow->destination;
  }
  fields.check = (__u16)~fold(sum);
  return !bpf_skb_store_bytes(skb, p->offset + 8, &fields, 12, 0);
}

/// Takes outer headers off and puts others on. Super-frames stay whole: the kernel is told what the headers are.
static __always_inline bool wrap(struct __sk_buff *skb, const struct kalsae_flow *flow, const struct packet *p) {
  // Aligned so that the network-layer header is.
  struct {
    __u16 align;
    __u8 octets[KALSAE_FLOW_HEADER];
  } header;
  __builtin_memcpy(header.octets, flow->header, KALSAE_FLOW_HEADER);
  if (p->offset > ETH_HLEN &&
      bpf_skb_adjust_room(skb, -(__s32)(p->offset - ETH_HLEN), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
    return false;
  __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
  switch (flow->out_kind) {
  case NONE: return !bpf_skb_store_bytes(skb, 0, header.octets, ETH_HLEN, 0);
  case IPIP:
    finish(header.octets, flow, p, 20);
    return !bpf_skb_adjust_room(skb, 20, BPF_ADJ_ROOM_MAC, flags) &&
           !bpf_skb_store_bytes(skb, 0, header.octets, ETH_HLEN + 20, 0);
  case GRE:
    finish(header.octets, flow, p, 24);
    return !bpf_skb_adjust_room(skb, 24, BPF_ADJ_ROOM_MAC, flags | BPF_F_ADJ_ROOM_ENCAP_L4_GRE) &&
           !bpf_skb_store_bytes(skb, 0, header.octets, ETH_HLEN + 24, 0);
  case VXLAN:
  case GENEVE:
    finish(header.octets, flow, p, 50);
    *(__u16 *)(header.octets + ETH_HLEN + 24) = bpf_htons((__u16)(p->length + 30));
    flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN);
    return !bpf_skb_adjust_room(skb, 50, BPF_ADJ_ROOM_MAC, flags) &&
           !bpf_skb_store_bytes(skb, 0, header.octets, ETH_HLEN + 50, 0);
  }
  return false;
}

/// At tc, ingress: carries the packets of known flows.
SEC("tc") int overlay_carry(struct __sk_buff *skb) {
  struct packet p = {};
  struct kalsae_flow *flow = take_turn(skb, &p);
  if (!flow) return TC_ACT_UNSPEC;
  // Where the kernel cannot, nothing must leave: half of a packet, or one with a checksum that nobody finishes (TUN-9).
  if (!rewrite(skb, flow, &p) || !wrap(skb, flow, &p)) {
    count(KALSAE_OVERLAY_FAILED, 1);
    return TC_ACT_SHOT;
  }
  flow->last_seen = bpf_ktime_get_coarse_ns();
  __sync_fetch_and_add(&flow->packets, 1);
  __sync_fetch_and_add(&flow->octets, p.length);
  count(KALSAE_OVERLAY_CARRIED, 1);
  count(KALSAE_OVERLAY_CARRIED_OCTETS, p.length);
  if (!(flow->flags & KALSAE_FLOW_TO_PEER)) return (int)bpf_redirect(flow->out, 0);
  // What a pod sent to its gateway's address is the other pod's now.
  if (skb->pkt_type != 0) bpf_skb_change_type(skb, 0);
  return (int)bpf_redirect_peer(flow->out, 0);
}

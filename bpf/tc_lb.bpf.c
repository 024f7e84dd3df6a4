// Services on packets at tc, at the ingress of pods' devices and of the underlay.
#include "kernel.h"

#include <linux/pkt_cls.h>

#define context __sk_buff
#define CAN_REFUSE true

static __always_inline long load(struct context *skb, __u32 offset, void *to, __u32 size) {
  return bpf_skb_load_bytes(skb, offset, to, size);
}

static __always_inline long store(struct context *skb, __u32 offset, const void *from, __u32 size) {
  return bpf_skb_store_bytes(skb, offset, from, size, 0);
}

/// Mends a transport checksum for new addresses, by what they do to a sum, and ports. Of a partial one only the pseudo
/// header is summed yet (TUN-9).
static __always_inline bool mend(
    struct context *skb, __u32 offset, __u32 addresses, __u32 old_ports, __u32 new_ports, bool is_udp, bool is_ipv6) {
  // No checksum stays none.
  __u64 flags = is_udp ? BPF_F_MARK_MANGLED_0 : 0;
  // A sum of the whole packet that the device has made: the helper takes it for IPv4's, where the header's own checksum
  // makes good for the addresses.
  if (is_ipv6) bpf_csum_update(skb, addresses);
  return !bpf_l4_csum_replace(skb, offset, 0, addresses, flags | BPF_F_PSEUDO_HDR) &&
         !bpf_l4_csum_replace(skb, offset, old_ports, new_ports, flags | 4);
}

#include "packet_lb.h"
#include "refusal.h"

/// Sends a packet whole: puts IPIP before it.
static __always_inline bool wrap(struct __sk_buff *skb, struct work *w) {
  struct iphdr outer;
  return prepare_direct(skb, w, &outer) &&
         !bpf_skb_adjust_room(
             skb, sizeof outer, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) &&
         !store(skb, ETH_HLEN, &outer, sizeof outer);
}

SEC("tc") int tc_lb(struct __sk_buff *skb) {
  struct work *w = 0;
  if (skb->vlan_present) return TC_ACT_UNSPEC;
  enum act act = balance_packet(skb, skb->ifindex, skb->len, skb->gso_size, &w);
  if (act == PASS || !w) return TC_ACT_UNSPEC;
  if (act == DROP) return TC_ACT_SHOT;
  if (act == REFUSE) return refuse(skb, w);
  struct bpf_fib_lookup way = {};
  if (w->place.kind == KALSAE_PLACE_KERNEL && !find_route(skb, w, skb->ifindex, false, &way)) return TC_ACT_UNSPEC;
  note_fragment(w);
  // Padding goes no further.
  if (w->padding && bpf_skb_change_tail(skb, ETH_HLEN + w->length, 0)) {
    count(KALSAE_LB_FAILED);
    return TC_ACT_SHOT;
  }
  if (w->is_direct ? !wrap(skb, w) : w->is_error ? !rewrite_error(skb, w) : !rewrite(skb, w)) {
    // Half of it is written: nobody must get this.
    count(KALSAE_LB_FAILED);
    return TC_ACT_SHOT;
  }
  count(w->counter);
  if (w->place.kind == KALSAE_PLACE_KERNEL) {
    struct bpf_redir_neigh next = {.nh_family = way.family};
    __builtin_memcpy(next.ipv6_nh, way.ipv6_dst, 16);
    return (int)bpf_redirect_neigh(way.ifindex, &next, sizeof next, 0);
  }
  if (store(skb, 0, w->place.destination, 12)) return TC_ACT_SHOT;
  if (w->place.kind == KALSAE_PLACE_FRAME) return (int)bpf_redirect(w->place.interface, 0);
  if (skb->pkt_type != 0) bpf_skb_change_type(skb, 0);
  return (int)bpf_redirect_peer(w->place.interface, 0);
}

// Services on packets in front of the underlay's device, before the kernel has made a packet of its own: what comes in
// for an endpoint elsewhere, and what it answers. What a pod of this node gets is left to tc_lb, and so is everything
// whose neighbour is not known yet.
#include "kernel.h"

#define context xdp_md
/// tc_lb answers, behind it.
#define CAN_REFUSE false

static __always_inline long load(struct context *xdp, __u32 offset, void *to, __u32 size) {
  return bpf_xdp_load_bytes(xdp, offset, to, size);
}

static __always_inline long store(struct context *xdp, __u32 offset, const void *from, __u32 size) {
  return bpf_xdp_store_bytes(xdp, offset, (void *)from, size);
}

static __always_inline bool mend(
    struct context *xdp, __u32 offset, __u32 addresses, __u32 old_ports, __u32 new_ports, bool is_udp, bool is_ipv6);

#include "packet_lb.h"

/// Mends a transport checksum for new addresses, by what they do to a sum, and ports. Here no checksum is partial.
static __always_inline bool mend(
    struct context *xdp, __u32 offset, __u32 addresses, __u32 old_ports, __u32 new_ports, bool is_udp, bool is_ipv6) {
  (void)is_ipv6;
  __u16 check;
  if (load(xdp, offset, &check, 2)) return false;
  // TUN-9: no checksum stays none, and a computed 0 is written as 0xffff.
  if (is_udp && !check) return true;
  check = mended(check, (__u64)addresses + (__u32)bpf_csum_diff(&old_ports, 4, &new_ports, 4, 0));
  if (is_udp && !check) check = 0xffff;
  return !store(xdp, offset, &check, 2);
}

/// Sends a packet whole: puts IPIP before it, and leaves Ethernet's addresses to be written.
static __always_inline bool wrap(struct xdp_md *xdp, struct work *w) {
  struct iphdr outer;
  __u16 type = bpf_htons(ETH_P_IP);
  return prepare_direct(xdp, w, &outer) && !bpf_xdp_adjust_head(xdp, -(int)sizeof outer) &&
         !store(xdp, 12, &type, 2) && !store(xdp, ETH_HLEN, &outer, sizeof outer);
}

SEC("xdp") int xdp_lb(struct xdp_md *xdp) {
  struct work *w = 0;
  __u32 interface = xdp->ingress_ifindex;
  enum act act = balance_packet(xdp, interface, (__u32)bpf_xdp_get_buff_len(xdp), 0, &w);
  if (act == PASS || !w) return XDP_PASS;
  if (act == DROP) return XDP_DROP;
  // A pair's device takes such packets only where its other end is prepared for them.
  if (w->place.flags & KALSAE_PLACE_POD || w->padding) return XDP_PASS;
  struct bpf_fib_lookup way = {};
  if (w->place.kind == KALSAE_PLACE_KERNEL) {
    if (!find_route(xdp, w, interface, true, &way)) return XDP_PASS;
    w->place.interface = way.ifindex;
    __builtin_memcpy(w->place.destination, way.dmac, 6);
    __builtin_memcpy(w->place.source, way.smac, 6);
  }
  note_fragment(w);
  if ((w->is_direct ? !wrap(xdp, w) : w->is_error ? !rewrite_error(xdp, w) : !rewrite(xdp, w)) || store(xdp, 0, w->place.destination, 12)) {
    count(KALSAE_LB_FAILED);
    return XDP_DROP;
  }
  count(w->counter);
  if (w->place.interface == interface) return XDP_TX;
  return (int)bpf_redirect(w->place.interface, 0);
}

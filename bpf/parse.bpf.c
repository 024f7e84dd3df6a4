// Programs that read a packet's headers and do nothing: what others are measured against.
#include "kernel.h"

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

struct head {
  __u16 align;
  __u8 ethernet[ETH_HLEN];
  __u8 network[40];
  __u8 transport[20];
};

/// Something that depends on all that was read, so that nothing is left out.
static __always_inline bool is_odd(const struct head *h) {
  return h->ethernet[12] == 0xff && h->network[9] == 0xff && h->transport[13] == 0xff;
}

SEC("tc") int tc_parse(struct __sk_buff *skb) {
  struct head h = {};
  if (bpf_skb_load_bytes(skb, 0, h.ethernet, ETH_HLEN + 20)) return TC_ACT_UNSPEC;
  bool is_v6 = h.ethernet[12] == 0x86;
  if (is_v6 && bpf_skb_load_bytes(skb, ETH_HLEN, h.network, 40)) return TC_ACT_UNSPEC;
  if (bpf_skb_load_bytes(skb, ETH_HLEN + (is_v6 ? 40 : 20), h.transport, 20)) return TC_ACT_UNSPEC;
  return is_odd(&h) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("xdp") int xdp_parse(struct xdp_md *xdp) {
  struct head h = {};
  if (bpf_xdp_load_bytes(xdp, 0, h.ethernet, ETH_HLEN + 20)) return XDP_PASS;
  bool is_v6 = h.ethernet[12] == 0x86;
  if (is_v6 && bpf_xdp_load_bytes(xdp, ETH_HLEN, h.network, 40)) return XDP_PASS;
  if (bpf_xdp_load_bytes(xdp, ETH_HLEN + (is_v6 ? 40 : 20), h.transport, 20)) return XDP_PASS;
  return is_odd(&h) ? XDP_DROP : XDP_PASS;
}

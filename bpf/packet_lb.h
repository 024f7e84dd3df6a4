#pragma once
// Services on packets: what Core+Services and Family of the user-space path do to TCP and UDP, for a node whose data
// plane does not run. While it runs (`lb_lease`) every packet is its own.
//
// What is not as a connection's packets are, and what only user space can do, is passed on untouched.
#include "connections.h"
#include "packet_rewrite.h"

/// Whether packets can be sent to where `w->next` leads: sets `w->place`.
static __always_inline bool find_place(struct work *w, const struct kalsae_lb_port *port) {
  const struct kalsae_place *place = place_of(&w->next.destination);
  if (!place) {
    w->place = (struct kalsae_place){.kind = KALSAE_PLACE_KERNEL};
  } else {
    w->place = *place;
  }
  if (w->place.kind == KALSAE_PLACE_LEFT) {
    count(KALSAE_LB_LEFT_ROUTE);
    return false;
  }
  // NP-7: nobody is kept from itself.
  if ((w->place.flags & KALSAE_PLACE_INGRESS_POLICY || port->flags & KALSAE_LB_EGRESS_POLICY) &&
      !is_same(&w->key.source, &w->next.destination)) {
    count(KALSAE_LB_LEFT_POLICY);
    return false;
  }
  if (w->place.mtu && w->segment > w->place.mtu) {
    count(KALSAE_LB_LEFT_SIZE);
    return false;
  }
  return true;
}

/// Decides about the first packet of a connection: `Core.decide` of the user-space path.
static __always_inline enum act decide(
    struct work *w, const struct kalsae_lb_port *port, const struct kalsae_lb_config *config) {
  struct question *q = &w->question;
  bool is_pod = port->flags & KALSAE_LB_POD;
  if (!is_unicast(&w->key.source) || !is_unicast(&w->key.destination)) return PASS;
  q->source = w->key.source;
  q->destination = w->key.destination;
  q->port = w->key.destination_port;
  q->transport = (__u8)w->key.transport;
  q->origin = is_pod ? ORIGIN_POD : ORIGIN_OUTSIDE;
  q->has_hash = true;
  q->hash = mix(
      mix(word_of(&q->source), word_of(&q->destination)),
      (__u64)w->key.source_port | (__u64)w->key.destination_port << 16 | (__u64)w->key.transport << 32);
  enum outcome outcome = balance(q, &w->answer);
  bool is_masqueraded = false;
  w->next.source = w->key.source;
  w->next.source_port = w->key.source_port;
  switch (outcome) {
  case OUTCOME_TRANSLATE: break;
  case OUTCOME_NONE: {
    // A connection without a service whose answers would look like those of one with.
    w->reply.source = w->key.destination;
    w->reply.destination = w->key.source;
    w->reply.source_port = w->key.destination_port;
    w->reply.destination_port = w->key.source_port;
    w->reply.transport = w->key.transport;
    const struct kalsae_place *place = place_of(&w->key.destination);
    w->reply.zone = place ? place->zone : 0;
    struct kalsae_connection *taken = bpf_map_lookup_elem(&connections, &w->reply);
    if (!taken || !(taken->flags & KALSAE_CONNECTION_REPLY) || taken->flags & KALSAE_CONNECTION_CLOSED) return PASS;
    if (!is_alive(taken, config, w->key.transport, w->now)) return PASS;
    w->answer.backend.address = w->key.destination;
    w->answer.backend.port = w->key.destination_port;
    w->answer.service = 0;
    break;
  }
  case OUTCOME_REJECT_NO_ENDPOINT:
  case OUTCOME_REJECT_NO_PORT:
    if (CAN_REFUSE && w->fragment == WHOLE) break;
    count(KALSAE_LB_LEFT_REFUSAL);
    return PASS;
  case OUTCOME_DROP_NO_LOCAL:
  case OUTCOME_DROP_RANGE: break;
  }
  // NODE-4, KP-39: whoever must not send gets no answer from here.
  const struct kalsae_place *from = place_of(&w->key.source);
  bool is_own_pod = from && from->flags & KALSAE_PLACE_POD;
  if (!is_pod && is_own_pod) return PASS;
  if (w->key.transport == IPPROTO_TCP && !(config->flags & KALSAE_LB_LIBERAL) && (w->tcp_flags & 0x17) != 0x02)
    return PASS;
  if (is_pod && w->key.transport == IPPROTO_UDP &&
      (w->key.destination_port == config->vxlan_port || w->key.destination_port == config->geneve_port))
    return PASS;
  if (outcome == OUTCOME_DROP_NO_LOCAL) {
    count(KALSAE_LB_NO_LOCAL_ENDPOINT);
    return DROP;
  }
  if (outcome == OUTCOME_DROP_RANGE) {
    count(KALSAE_LB_SOURCE_RANGE);
    return DROP;
  }
  if (outcome == OUTCOME_REJECT_NO_ENDPOINT || outcome == OUTCOME_REJECT_NO_PORT) {
    count(outcome == OUTCOME_REJECT_NO_ENDPOINT ? KALSAE_LB_NO_ENDPOINT : KALSAE_LB_NO_PORT);
    return REFUSE;
  }
  w->next.destination = w->answer.backend.address;
  w->next.destination_port = w->answer.backend.port;
  w->next.service = w->answer.service;
  if (outcome == OUTCOME_TRANSLATE) {
    if (w->answer.kind == KALSAE_CLUSTER_IP) {
      // KP-34
      is_masqueraded = config->flags & KALSAE_LB_MASQUERADE_ALL ||
                       (config->flags & (w->is_v4 ? KALSAE_LB_BLOCKS4 : KALSAE_LB_BLOCKS6) &&
                        !(from && from->flags & KALSAE_PLACE_CLUSTER));
    } else {
      // KP-32, KP-33
      is_masqueraded = !(w->answer.flags & KALSAE_FRONTEND_LOCAL);
    }
    // KP-35
    if (is_same(&w->next.destination, &w->key.source)) is_masqueraded = true;
    // The endpoint must take what is the service's: its address, and so its port.
    if (config->flags & KALSAE_LB_DIRECT && w->answer.kind != KALSAE_CLUSTER_IP && !is_pod && w->is_v4 &&
        w->next.destination_port == w->key.destination_port && !is_zero(&config->node4))
      make_direct(w, config);
  }
  if (!find_place(w, port)) return PASS;
  // NODE-8
  if (is_pod && port->flags & KALSAE_LB_MASQUERADES && !(w->place.flags & (KALSAE_PLACE_POOL | KALSAE_PLACE_POD)))
    is_masqueraded = true;
  if (is_masqueraded) {
    w->next.source = w->is_v4 ? config->node4 : config->node6;
    if (is_zero(&w->next.source)) {
      count(KALSAE_LB_NO_FREE_PORT);
      return DROP;
    }
  }
  w->next.zone = w->place.zone;
  return w->is_direct ? enter_direct(w) : enter(w, config, is_masqueraded);
}

/// Finds what is to become of a TCP or UDP packet.
static __always_inline enum act judge(
    struct work *w, const struct kalsae_lb_port *port, const struct kalsae_lb_config *config) {
  struct kalsae_connection *known = bpf_map_lookup_elem(&connections, &w->key);
  if (known && is_alive(known, config, w->key.transport, w->now)) {
    bool is_reply = known->flags & KALSAE_CONNECTION_REPLY;
    if (is_current(w, known) && follow(w, known)) {
      w->next = *known;
      if (known->flags & KALSAE_CONNECTION_DIRECT) make_direct(w, config);
      if (!find_place(w, port)) return PASS;
      if (!is_reply && !w->is_direct && w->place.zone != known->zone) {
        // The endpoint's packets come in elsewhere now.
        reverse(&w->reply, known, w->key.transport);
        bpf_map_delete_elem(&connections, &w->reply);
        known->zone = w->place.zone;
        w->next.zone = w->place.zone;
        turn_round(w);
        bpf_map_update_elem(&connections, &w->reply, &w->back, BPF_ANY);
      }
      known->last_seen = w->now;
      w->counter = is_reply ? KALSAE_LB_ANSWERED : KALSAE_LB_FORWARDED;
      return SEND;
    }
    if (is_reply) {
      // KP-51: what an endpoint says that the service has no more is for nobody.
      bpf_map_delete_elem(&connections, &w->key);
      count(KALSAE_LB_NO_ENDPOINT);
      return DROP;
    }
  }
  // A connection begins with its first packet whole or its first fragment.
  w->counter = KALSAE_LB_FORWARDED;
  return w->fragment == LATER ? PASS : decide(w, port, config);
}

/// TUN-7, RFC 5508: an error about a packet of a connection is for whoever sent that packet, and about what that one sent.
/// Sets `w->next` and `w->reply`, the key of the packets that answer the quoted one.
static __always_inline enum act explain(
    struct context *ctx, struct work *w, const struct kalsae_lb_port *port, const struct kalsae_lb_config *config) {
  __u32 size = w->is_v4 ? 20 : 40;
  w->quoted = w->transport + 8;
  if (w->length + ETH_HLEN < w->quoted + size + 8) return PASS;
  if (w->is_v4) {
    if (load(ctx, w->quoted, &w->head.ip, 20)) return PASS;
    const struct iphdr *ip = &w->head.ip;
    if (*(const __u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x1fff)) return PASS;
    set_v4(&w->reply.destination, ip->saddr);
    set_v4(&w->reply.source, ip->daddr);
    w->reply.transport = ip->protocol;
  } else {
    if (load(ctx, w->quoted, &w->head.ip6, 40)) return PASS;
    const struct ipv6hdr *ip = &w->head.ip6;
    if (ip->version != 6) return PASS;
    __builtin_memcpy(&w->reply.destination, &ip->saddr, 16);
    __builtin_memcpy(&w->reply.source, &ip->daddr, 16);
    w->reply.transport = ip->nexthdr;
  }
  if (w->reply.transport != IPPROTO_TCP && w->reply.transport != IPPROTO_UDP) return PASS;
  if (load(ctx, w->quoted + size, w->octets, 8)) return PASS;
  w->reply.destination_port = w->tcp.source;
  w->reply.source_port = w->tcp.dest;
  w->reply.zone = w->key.zone;
  const struct kalsae_connection *known = bpf_map_lookup_elem(&connections, &w->reply);
  if (!known || !is_alive(known, config, w->reply.transport, w->now)) return PASS;
  w->next = *known;
  // NODE-4: a pod of this node does not report from outside.
  const struct kalsae_place *from = place_of(&w->key.source);
  if (!(port->flags & KALSAE_LB_POD) && from && from->flags & KALSAE_PLACE_POD) return PASS;
  // Only who answers speaks as the service.
  if (!is_same(&w->key.source, &w->reply.source)) w->back.source = w->key.source;
  else w->back.source = w->next.source;
  w->segment = w->length;
  w->counter = KALSAE_LB_ERRORS;
  return find_place(w, port) ? SEND : PASS;
}

/// Remembers the ports of a datagram whose first fragment this is.
static __always_inline void note_fragment(struct work *w) {
  if (w->fragment != FIRST) return;
  struct kalsae_fragment first = {
      .source_port = w->key.source_port, .destination_port = w->key.destination_port, .seen = w->now};
  bpf_map_update_elem(&lb_fragments, &w->fragment_key, &first, BPF_ANY);
}

/// Asks the kernel's routes for the way to where `w->next` leads, from what came in by `interface`; with `needs_neighbour`
/// for one whose next neighbour's Ethernet address is known.
static __always_inline bool find_route(
    struct context *ctx, struct work *w, __u32 interface, bool needs_neighbour, struct bpf_fib_lookup *way) {
  way->family = w->is_v4 ? AF_INET : AF_INET6;
  way->l4_protocol = (__u8)w->key.transport;
  way->sport = w->next.source_port;
  way->dport = w->next.destination_port;
  way->tot_len = (__u16)w->segment;
  way->ifindex = interface;
  if (w->is_v4) {
    way->ipv4_src = w->next.source.word[3];
    way->ipv4_dst = w->next.destination.word[3];
  } else {
    __builtin_memcpy(way->ipv6_src, &w->next.source, 16);
    __builtin_memcpy(way->ipv6_dst, &w->next.destination, 16);
  }
  long result = bpf_fib_lookup(ctx, way, sizeof *way, 0);
  if (result == BPF_FIB_LKUP_RET_SUCCESS) return true;
  if (result == BPF_FIB_LKUP_RET_NO_NEIGH) return !needs_neighbour;
  count(result == BPF_FIB_LKUP_RET_FRAG_NEEDED ? KALSAE_LB_LEFT_SIZE : KALSAE_LB_LEFT_ROUTE);
  return false;
}

/// What becomes of a packet that came in by a device: reads, looks up, decides.
static __always_inline enum act balance_packet(
    struct context *ctx, __u32 interface, __u32 size, __u32 gso, struct work **out) {
  __u32 zero = 0;
  const struct kalsae_lb_port *port = bpf_map_lookup_elem(&lb_ports, &interface);
  if (!port) return PASS;
  const struct kalsae_lb_config *config = bpf_map_lookup_elem(&lb_config, &zero);
  struct work *w = bpf_map_lookup_elem(&lb_work, &zero);
  if (!config || !w || is_leased()) return PASS;
  *out = w;
  w->now = bpf_ktime_get_coarse_ns();
  w->segment = gso;
  w->is_direct = false;
  w->key.zone = port->zone;
  w->place.kind = KALSAE_PLACE_LEFT;
  if (!read(ctx, size, port, w)) return PASS;
  if (w->time_to_live <= 1) return PASS;
  // NODE-4: a pod sends from its own addresses.
  if (port->flags & KALSAE_LB_POD && !is_same(&w->key.source, w->is_v4 ? &port->address4 : &port->address6)) return PASS;
  if (w->is_error) return explain(ctx, w, port, config);
  return judge(w, port, config);
}

#pragma once
// Services on packets: what Core+Services and Family of the user-space path do to TCP and UDP, for a node whose data
// plane does not run. While it runs (`lb_lease`) every packet is its own.
//
// What is not as a connection's packets are, and what only user space can do, is passed on untouched. Whoever includes
// this says before how octets of a packet are read and written: `load`, `store`, `mend`, `cut`, and `struct context`.
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

enum act { PASS, DROP, SEND };

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

/// Whether an entry of the table still says something.
static __always_inline bool is_alive(
    const struct kalsae_connection *c, const struct kalsae_lb_config *config, __u32 transport, __u64 now) {
  __u32 seconds = transport == IPPROTO_UDP ? config->udp
                  : (c->flags & (KALSAE_CONNECTION_ESTABLISHED | KALSAE_CONNECTION_FIN |
                                 KALSAE_CONNECTION_OTHER_FIN | KALSAE_CONNECTION_CLOSED)) ==
                          KALSAE_CONNECTION_ESTABLISHED
                      ? config->tcp_established
                      : config->tcp_transient;
  // Two clocks of the kernel's differ by a tick.
  return now < c->last_seen || now - c->last_seen < (__u64)seconds * 1000000000ull;
}

/// KP-51: UDP must not go to an endpoint that the service has no more, nor by a frontend that is another's or nobody's.
static __always_inline bool is_current(struct work *w, const struct kalsae_connection *c) {
  if (w->key.transport != IPPROTO_UDP || !c->service) return true;
  bool is_reply = c->flags & KALSAE_CONNECTION_REPLY;
  struct question *q = &w->question;
  q->destination = is_reply ? c->source : w->key.destination;
  q->port = is_reply ? c->source_port : w->key.destination_port;
  q->transport = IPPROTO_UDP;
  __u32 place = find_frontend(q);
  const struct kalsae_frontend *frontend = place ? bpf_map_lookup_elem(&frontend_rec, &place) : 0;
  if (!frontend) return false;
  __u32 number = frontend->service;
  const struct kalsae_service *service = bpf_map_lookup_elem(&services, &number);
  if (!service || word_at(service->list + KALSAE_LIST_IDENTITY) != c->service) return false;
  struct kalsae_member_key key = {.service = c->service, .address = is_reply ? w->key.source : c->destination};
  key.port = is_reply ? w->key.source_port : c->destination_port;
  return bpf_map_lookup_elem(&members, &key) != 0;
}

/// The key of what comes the other way.
static __always_inline void reverse(
    struct kalsae_connection_key *out, const struct kalsae_connection *c, __u32 transport) {
  out->source = c->destination;
  out->destination = c->source;
  out->source_port = c->destination_port;
  out->destination_port = c->source_port;
  out->zone = c->zone;
  out->transport = transport;
}

/// Follows a connection where it opens and closes. False where a SYN opens another on the same ports.
static __always_inline bool follow(struct work *w, struct kalsae_connection *c) {
  bool is_reply = c->flags & KALSAE_CONNECTION_REPLY;
  __u32 add = is_reply ? KALSAE_CONNECTION_ESTABLISHED : 0;
  if (w->key.transport == IPPROTO_TCP) {
    if (w->tcp_flags & 0x04) {
      add |= KALSAE_CONNECTION_CLOSED;
    } else if (w->tcp_flags & 0x01) {
      add |= is_reply ? KALSAE_CONNECTION_OTHER_FIN : KALSAE_CONNECTION_FIN;
    } else if ((w->tcp_flags & 0x12) == 0x02 && !is_reply &&
               c->flags & (KALSAE_CONNECTION_CLOSED | KALSAE_CONNECTION_FIN | KALSAE_CONNECTION_OTHER_FIN)) {
      return false;
    }
  }
  if ((c->flags & add) == add) return true;
  __u32 flags = c->flags | add;
  if ((flags & (KALSAE_CONNECTION_FIN | KALSAE_CONNECTION_OTHER_FIN)) ==
      (KALSAE_CONNECTION_FIN | KALSAE_CONNECTION_OTHER_FIN))
    flags |= KALSAE_CONNECTION_CLOSED;
  c->flags = flags;
  reverse(&w->reply, c, w->key.transport);
  struct kalsae_connection *other = bpf_map_lookup_elem(&connections, &w->reply);
  if (other) other->flags = (flags & ~KALSAE_CONNECTION_REPLY) | (other->flags & KALSAE_CONNECTION_REPLY);
  return true;
}

static __always_inline const struct kalsae_place *place_of(const struct kalsae_address *address) {
  struct kalsae_place_key key = {.length = 128, .address = *address};
  return bpf_map_lookup_elem(&lb_places, &key);
}

/// What it is to find a port for: for `take_port`.
struct search {
  struct work *w;
  const struct kalsae_lb_config *config;
  __u32 offset;
  bool is_masqueraded;
  bool is_entered;
};

/// Tries one source port, and enters the direction of the answers where they can be told from another's (KP-36).
static long take_port(__u32 turn, void *context) {
  struct search *s = context;
  struct work *w = s->w;
  __u32 ports = s->config->port_count;
  // Without masquerade the client's own port is the first choice.
  if (s->is_masqueraded || turn) {
    if (turn > ports) return 1;
    w->next.source_port = bpf_htons((__u16)(s->config->first_port + (s->offset + turn) % ports));
    w->reply.destination_port = w->next.source_port;
  }
  if (!bpf_map_update_elem(&connections, &w->reply, &w->back, BPF_NOEXIST)) goto entered;
  struct kalsae_connection *taken = bpf_map_lookup_elem(&connections, &w->reply);
  if (!taken) return 0;
  // Its own, of which the other direction was forgotten; or one that has ended gives way.
  bool is_own = is_same(&taken->source, &w->key.destination) && is_same(&taken->destination, &w->key.source) &&
                taken->source_port == w->key.destination_port && taken->destination_port == w->key.source_port &&
                taken->flags & KALSAE_CONNECTION_REPLY;
  if (!is_own && !(taken->flags & KALSAE_CONNECTION_CLOSED) && is_alive(taken, s->config, w->key.transport, w->now))
    return 0;
  if (bpf_map_update_elem(&connections, &w->reply, &w->back, BPF_ANY)) return 0;
entered:
  s->is_entered = true;
  return 1;
}

/// Makes `w->reply` and `w->back` the key and the entry of what answers `w->key`, which becomes `w->next`.
static __always_inline void turn_round(struct work *w) {
  reverse(&w->reply, &w->next, w->key.transport);
  w->back.source = w->key.destination;
  w->back.destination = w->key.source;
  w->back.source_port = w->key.destination_port;
  w->back.destination_port = w->key.source_port;
  w->back.zone = w->key.zone;
  w->back.service = w->next.service;
  w->back.last_seen = w->now;
  w->back.flags = w->next.flags | KALSAE_CONNECTION_REPLY;
  w->back.zero = 0;
}

/// Enters both directions of a connection, `w->key` to `w->next`, with a port of its own where it needs one.
static __always_inline enum act enter(struct work *w, const struct kalsae_lb_config *config, bool is_masqueraded) {
  w->next.last_seen = w->now;
  // Of TCP's flags those of others are not read.
  w->next.flags = w->tcp_flags & 0x04 ? KALSAE_CONNECTION_CLOSED : w->tcp_flags & 0x01 ? KALSAE_CONNECTION_FIN : 0;
  w->next.zero = 0;
  turn_round(w);
  struct search search = {
      .w = w, .config = config, .offset = bpf_get_prandom_u32(), .is_masqueraded = is_masqueraded};
  if (config->port_count) bpf_loop(65, take_port, &search, 0);
  if (!search.is_entered) {
    count(KALSAE_LB_NO_FREE_PORT);
    return DROP;
  }
  if (bpf_map_update_elem(&connections, &w->key, &w->next, BPF_ANY)) {
    count(KALSAE_FULL);
    bpf_map_delete_elem(&connections, &w->reply);
    return PASS;
  }
  count(KALSAE_LB_CONNECTIONS);
  return SEND;
}

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
  case OUTCOME_REJECT_NO_PORT: count(KALSAE_LB_LEFT_REFUSAL); return PASS;
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
  return enter(w, config, is_masqueraded);
}

/// Finds what is to become of a TCP or UDP packet.
static __always_inline enum act judge(
    struct work *w, const struct kalsae_lb_port *port, const struct kalsae_lb_config *config) {
  struct kalsae_connection *known = bpf_map_lookup_elem(&connections, &w->key);
  if (known && is_alive(known, config, w->key.transport, w->now)) {
    bool is_reply = known->flags & KALSAE_CONNECTION_REPLY;
    if (is_current(w, known) && follow(w, known)) {
      w->next = *known;
      if (!find_place(w, port)) return PASS;
      if (!is_reply && w->place.zone != known->zone) {
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

/// Writes the network-layer header: the addresses in `w->after` for those in `w->before`, and one hop less.
static __always_inline bool rewrite_network(struct context *ctx, struct work *w) {
  if (w->is_v4) {
    struct {
      __u8 time_to_live, protocol;
      __u16 check;
      __u32 source, destination;
    } fields = {w->time_to_live - 1, (__u8)w->key.transport, 0, w->after[3], w->after[7]};
    __u32 sum = (__u16)~w->check + (__u32)bpf_htons(0xfeff);
    sum += (__u32)(__u16)~w->before[3] + (__u16)~(w->before[3] >> 16);
    sum += (__u32)(__u16)~w->before[7] + (__u16)~(w->before[7] >> 16);
    sum += (fields.source & 0xffff) + (fields.source >> 16);
    sum += (fields.destination & 0xffff) + (fields.destination >> 16);
    fields.check = (__u16)~fold(sum);
    return !store(ctx, ETH_HLEN + 8, &fields, 12);
  }
  __u8 limit = w->time_to_live - 1;
  return !store(ctx, ETH_HLEN + 7, &limit, 1) && !store(ctx, ETH_HLEN + 8, w->after, 32);
}

/// Gives a packet its new addresses and ports, and one hop less. False where the kernel cannot: then it is lost.
static __always_inline bool rewrite(struct context *ctx, struct work *w) {
  __builtin_memcpy(w->before, &w->key.source, 32);
  __builtin_memcpy(w->after, &w->next.source, 32);
  if (w->fragment != LATER) {
    __u32 addresses = (__u32)bpf_csum_diff(w->before, 32, w->after, 32, 0);
    __u32 old = (__u32)w->key.source_port | (__u32)w->key.destination_port << 16;
    __u32 new = (__u32)w->next.source_port | (__u32)w->next.destination_port << 16;
    bool is_tcp = w->key.transport == IPPROTO_TCP;
    if (!mend(ctx, w->transport + (is_tcp ? 16 : 6), addresses, old, new, !is_tcp, !w->is_v4)) return false;
    if (store(ctx, w->transport, &new, 4)) return false;
  }
  return rewrite_network(ctx, w);
}

/// What new values do to a checksum.
static __always_inline __u16 mended(__u16 check, __u64 delta) {
  __u64 sum = (__u64)(__u16)~check + delta;
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (__u16)~fold((__u32)sum);
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

/// Writes what `explain` has found.
static __always_inline bool rewrite_error(struct context *ctx, struct work *w) {
  __u32 size = w->is_v4 ? 20 : 40, at = w->quoted + size;
  // The quoted packet: what its sender sent.
  __builtin_memcpy(w->before, &w->reply.destination, 16);
  __builtin_memcpy(w->before + 4, &w->reply.source, 16);
  __builtin_memcpy(w->after, &w->next.destination, 16);
  __builtin_memcpy(w->after + 4, &w->next.source, 16);
  __u32 addresses = (__u32)bpf_csum_diff(w->before, 32, w->after, 32, 0);
  __u32 old = (__u32)w->reply.destination_port | (__u32)w->reply.source_port << 16;
  __u32 new = (__u32)w->next.destination_port | (__u32)w->next.source_port << 16;
  __u32 ports = (__u32)bpf_csum_diff(&old, 4, &new, 4, 0);
  __u64 delta = ports;
  if (w->is_v4) {
    __u16 check = w->head.ip.check, now = mended(check, addresses);
    delta += (__u64)addresses + (__u16)~check + now;
    if (store(ctx, w->quoted + 10, &now, 2) || store(ctx, w->quoted + 12, &w->after[3], 4) ||
        store(ctx, w->quoted + 16, &w->after[7], 4))
      return false;
  } else {
    delta += addresses;
    if (store(ctx, w->quoted + 8, w->after, 32)) return false;
  }
  if (store(ctx, at, &new, 4)) return false;
  bool is_udp = w->reply.transport == IPPROTO_UDP;
  __u32 field = at + (is_udp ? 6 : 16);
  __u16 check;
  if (w->length + ETH_HLEN >= field + 2) {
    if (load(ctx, field, &check, 2)) return false;
    if (!is_udp || check) {
      __u16 now = mended(check, (__u64)addresses + ports);
      if (is_udp && !now) now = 0xffff;
      delta += (__u64)(__u16)~check + now;
      if (store(ctx, field, &now, 2)) return false;
    }
  }
  // The error itself.
  __builtin_memcpy(w->before, &w->key.source, 32);
  __builtin_memcpy(w->after, &w->back.source, 16);
  __builtin_memcpy(w->after + 4, &w->next.destination, 16);
  __u32 outer = (__u32)bpf_csum_diff(w->before, 32, w->after, 32, 0);
  if (!w->is_v4) delta += outer;
  if (load(ctx, w->transport + 2, &check, 2)) return false;
  check = mended(check, delta);
  if (store(ctx, w->transport + 2, &check, 2)) return false;
  return rewrite_network(ctx, w);
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
  w->key.zone = port->zone;
  w->place.kind = KALSAE_PLACE_LEFT;
  if (!read(ctx, size, port, w)) return PASS;
  if (w->time_to_live <= 1) return PASS;
  // NODE-4: a pod sends from its own addresses.
  if (port->flags & KALSAE_LB_POD && !is_same(&w->key.source, w->is_v4 ? &port->address4 : &port->address6)) return PASS;
  if (w->is_error) return explain(ctx, w, port, config);
  return judge(w, port, config);
}

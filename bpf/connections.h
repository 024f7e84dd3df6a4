#pragma once
// The table of connections: two entries each, one a direction.
#include "packet.h"

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
  // Nobody sees the answers: what the client acknowledges must have come.
  if (c->flags & KALSAE_CONNECTION_DIRECT && w->tcp_flags & 0x10) add |= KALSAE_CONNECTION_ESTABLISHED;
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
  if (flags & KALSAE_CONNECTION_DIRECT) return true;
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
    if (turn > 2 * ports) return 1;
    w->next.source_port = bpf_htons((__u16)(s->config->first_port + (s->offset + turn) % ports));
    w->reply.destination_port = w->next.source_port;
  }
  if (!bpf_map_update_elem(&connections, &w->reply, &w->back, BPF_NOEXIST)) goto entered;
  struct kalsae_connection *taken = bpf_map_lookup_elem(&connections, &w->reply);
  if (!taken) return 0;
  // Its own, of which the other direction was forgotten; or one that has ended gives way. Its end may still remember it
  // for a minute (RFC 9293, section 3.6.1), and would answer the new one with the old one's numbers: so others first.
  bool is_own = is_same(&taken->source, &w->key.destination) && is_same(&taken->destination, &w->key.source) &&
                taken->source_port == w->key.destination_port && taken->destination_port == w->key.source_port &&
                taken->flags & KALSAE_CONNECTION_REPLY;
  bool is_remembered = (turn || s->is_masqueraded) && turn < ports && turn < 32 &&
                       w->now - taken->last_seen < 60000000000ull;
  if (!is_own && !(taken->flags & KALSAE_CONNECTION_CLOSED && !is_remembered) &&
      is_alive(taken, s->config, w->key.transport, w->now))
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

/// Enters a connection whose packets are sent as they are: it has one direction only.
static __always_inline enum act enter_direct(struct work *w) {
  w->next.last_seen = w->now;
  w->next.flags = KALSAE_CONNECTION_DIRECT;
  w->next.zero = 0;
  if (bpf_map_update_elem(&connections, &w->key, &w->next, BPF_ANY)) {
    count(KALSAE_FULL);
    return PASS;
  }
  count(KALSAE_LB_CONNECTIONS);
  return SEND;
}

/// Has the packet be sent whole, in IPIP.
static __always_inline void make_direct(struct work *w, const struct kalsae_lb_config *config) {
  w->is_direct = true;
  w->outer = config->node4.word[3];
  w->segment += sizeof(struct iphdr);
}

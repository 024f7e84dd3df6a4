// Services at the socket: a connection to a service is made to an endpoint from the start, so that its packets need no
// translation. Attached to a control group; looks after sockets of the network namespaces in `namespaces` alone.
//
// What the rules want dropped or masqueraded is left to the packet path, which drops, counts and translates it.
#include "services.h"

#define ECONNREFUSED 111
#define EADDRINUSE 98

/// Whether bpf_set_retval is there (Linux 5.18); without it nothing is rejected here but left to the packet path.
const volatile __u8 has_set_retval = 0;
/// The families of sockets, 1: IPv4, 2: IPv6, whose connected datagram sockets are left to the packet path: without recvmsg
/// answers would come from the endpoint.
const volatile __u8 leaves_datagrams = 0;

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4096);
  __type(key, __u64);
  __type(value, struct kalsae_namespace);
} namespaces SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 65536);
  __type(key, struct kalsae_socket_key);
  __type(value, struct kalsae_socket);
} sockets SEC(".maps");

/// For people and for other versions: the layout, the hooks that are wanted, whether bpf_set_retval is there.
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} meta SEC(".maps");

/// What a hook is asked about: the address and port that the program named.
struct target {
  struct kalsae_address address;
  __u16 port;
};

static __always_inline void read4(const struct bpf_sock_addr *ctx, struct target *t) {
  t->address.word[0] = 0;
  t->address.word[1] = 0;
  t->address.word[2] = bpf_htonl(0xffff);
  t->address.word[3] = ctx->user_ip4;
  t->port = (__u16)ctx->user_port;
}

static __always_inline void read6(const struct bpf_sock_addr *ctx, struct target *t) {
  t->address.word[0] = ctx->user_ip6[0];
  t->address.word[1] = ctx->user_ip6[1];
  t->address.word[2] = ctx->user_ip6[2];
  t->address.word[3] = ctx->user_ip6[3];
  t->port = (__u16)ctx->user_port;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct kalsae_address *address, __u16 port) {
  ctx->user_ip4 = address->word[3];
  ctx->user_port = port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct kalsae_address *address, __u16 port) {
  ctx->user_ip6[0] = address->word[0];
  ctx->user_ip6[1] = address->word[1];
  ctx->user_ip6[2] = address->word[2];
  ctx->user_ip6[3] = address->word[3];
  ctx->user_port = port;
}

static __always_inline bool is_loopback4(__u32 address) { return (address & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000); }

/// What the socket's connection comes from: the address that it is bound to, else that of its namespace. False where
/// it is bound to the loopback device: no other host answers there.
static __always_inline bool find_source(
    struct bpf_sock_addr *ctx, const struct kalsae_namespace *ns, bool is_v4, struct kalsae_address *source) {
  *source = is_v4 ? ns->address4 : ns->address6;
  struct bpf_sock *sk = ctx->sk;
  if (!sk) return true;
  if (is_v4) {
    __u32 bound = sk->src_ip4;
    if (!bound) return true;
    if (is_loopback4(bound)) return false;
    source->word[0] = 0;
    source->word[1] = 0;
    source->word[2] = bpf_htonl(0xffff);
    source->word[3] = bound;
    return true;
  }
  __u32 a = sk->src_ip6[0], b = sk->src_ip6[1], c = sk->src_ip6[2], d = sk->src_ip6[3];
  if (!(a | b | c | d)) return true;
  if (!(a | b | c) && d == bpf_htonl(1)) return false;
  source->word[0] = a;
  source->word[1] = b;
  source->word[2] = c;
  source->word[3] = d;
  return true;
}

enum result { LEAVE, REWRITE, REFUSE };

static __always_inline void remember(
    __u64 cookie, const struct target *t, __u8 transport, const struct answer *a, bool forward) {
  struct kalsae_socket_key key = {.cookie = cookie, .transport = transport, .direction = KALSAE_BACKWARD};
  key.address = a->backend.address;
  key.port = a->backend.port;
  struct kalsae_socket value = {.address = t->address, .port = t->port, .service = a->service};
  if (bpf_map_update_elem(&sockets, &key, &value, BPF_ANY)) count(KALSAE_FULL);
  if (!forward) return;
  key.address = t->address;
  key.port = t->port;
  key.direction = KALSAE_FORWARD;
  value.address = a->backend.address;
  value.port = a->backend.port;
  if (bpf_map_update_elem(&sockets, &key, &value, BPF_ANY)) count(KALSAE_FULL);
}

/// Finds the endpoint for what a socket wants to reach and puts it in place of the target.
static __always_inline enum result translate(struct bpf_sock_addr *ctx, struct target *t, bool is_datagram, int family) {
  __u64 netns = bpf_get_netns_cookie(ctx);
  struct kalsae_namespace *ns = bpf_map_lookup_elem(&namespaces, &netns);
  if (!ns) return LEAVE;
  __u8 transport = (__u8)ctx->protocol;
  if (transport != IPPROTO_TCP && transport != IPPROTO_UDP) return LEAVE;
  if (transport == IPPROTO_UDP && leaves_datagrams & (family == 4 ? 1 : 2)) return LEAVE;
  bool is_v4 = is_ipv4(&t->address);
  // KP-24: 127.0.0.1 is the node's only where the node asks; in a pod it is the pod's own.
  if (is_v4 && is_loopback4(t->address.word[3]) && ns->role != KALSAE_ROLE_NODE) return LEAVE;
  __u64 cookie = bpf_get_socket_cookie(ctx);
  if (is_datagram) {
    // A socket that sends to several has a flow with each of them, and keeps its endpoint while that is there (KP-51).
    struct kalsae_socket_key key = {.cookie = cookie, .port = t->port, .transport = transport};
    key.address = t->address;
    key.direction = KALSAE_FORWARD;
    struct kalsae_socket *flow = bpf_map_lookup_elem(&sockets, &key);
    if (flow) {
      struct kalsae_socket copy = *flow;
      if (is_member(copy.service, &copy.address, copy.port, false)) {
        t->address = copy.address;
        t->port = copy.port;
        return REWRITE;
      }
      if (is_member(copy.service, &copy.address, copy.port, true)) {
        t->address = copy.address;
        t->port = copy.port;
        return REWRITE;
      }
    }
  }
  struct question q = {
      .port = t->port, .transport = transport, .origin = ns->role == KALSAE_ROLE_NODE ? ORIGIN_NODE : ORIGIN_POD};
  q.destination = t->address;
  if (!find_source(ctx, ns, is_v4, &q.source)) return LEAVE;
  struct answer a = {};
  switch (balance(&q, &a)) {
  case OUTCOME_NONE: return LEAVE;
  case OUTCOME_TRANSLATE: break;
  case OUTCOME_DROP_NO_LOCAL: count(KALSAE_LEFT_NO_LOCAL_ENDPOINT); return LEAVE;
  case OUTCOME_DROP_RANGE: count(KALSAE_LEFT_SOURCE_RANGE); return LEAVE;
  case OUTCOME_REJECT_NO_ENDPOINT:
    // KP-30: a TCP reset says the same. Datagrams get their answer from the packet path.
    if (transport != IPPROTO_TCP || !has_set_retval) {
      count(KALSAE_LEFT_NO_ENDPOINT);
      return LEAVE;
    }
    count(KALSAE_REJECTED_NO_ENDPOINT);
    return REFUSE;
  case OUTCOME_REJECT_NO_PORT:
    if (transport != IPPROTO_TCP || !has_set_retval) {
      count(KALSAE_LEFT_NO_ENDPOINT);
      return LEAVE;
    }
    count(KALSAE_REJECTED_NO_PORT);
    return REFUSE;
  }
  // KP-34: only packets can be given another source.
  if (a.kind == KALSAE_CLUSTER_IP && ns->role == KALSAE_ROLE_POD &&
      (ns->flags & (is_v4 ? KALSAE_NAMESPACE_FOREIGN4 : KALSAE_NAMESPACE_FOREIGN6))) {
    count(KALSAE_LEFT_MASQUERADE);
    return LEAVE;
  }
  remember(cookie, t, transport, &a, is_datagram);
  count(KALSAE_TRANSLATED);
  t->address = a.backend.address;
  t->port = a.backend.port;
  return REWRITE;
}

static __always_inline int refuse(void) {
  if (has_set_retval) bpf_set_retval(-ECONNREFUSED);
  return 0;
}

/// What a peer is called towards the socket that it was translated for.
static __always_inline bool translate_back(struct bpf_sock_addr *ctx, struct target *t) {
  struct kalsae_socket_key key = {
      .cookie = bpf_get_socket_cookie(ctx), .port = t->port, .transport = (__u8)ctx->protocol,
      .direction = KALSAE_BACKWARD};
  key.address = t->address;
  struct kalsae_socket *socket = bpf_map_lookup_elem(&sockets, &key);
  if (!socket) return false;
  t->address = socket->address;
  t->port = socket->port;
  return true;
}

#define FORWARD(NAME, FAMILY, IS_DATAGRAM)                                                                            \
  int NAME(struct bpf_sock_addr *ctx) {                                                                                \
    struct target t;                                                                                                   \
    read##FAMILY(ctx, &t);                                                                                             \
    enum result result = translate(ctx, &t, IS_DATAGRAM, FAMILY);                                                              \
    if (result == REFUSE) return refuse();                                                                             \
    if (result == REWRITE) write##FAMILY(ctx, &t.address, t.port);                                                     \
    return 1;                                                                                                          \
  }

#define BACKWARD(NAME, FAMILY)                                                                                         \
  int NAME(struct bpf_sock_addr *ctx) {                                                                                \
    struct target t;                                                                                                   \
    read##FAMILY(ctx, &t);                                                                                             \
    if (translate_back(ctx, &t)) write##FAMILY(ctx, &t.address, t.port);                                               \
    return 1;                                                                                                          \
  }

SEC("cgroup/connect4") FORWARD(connect4, 4, false)
SEC("cgroup/connect6") FORWARD(connect6, 6, false)
SEC("cgroup/sendmsg4") FORWARD(sendmsg4, 4, true)
SEC("cgroup/sendmsg6") FORWARD(sendmsg6, 6, true)
SEC("cgroup/recvmsg4") BACKWARD(recvmsg4, 4)
SEC("cgroup/recvmsg6") BACKWARD(recvmsg6, 6)
SEC("cgroup/getpeername4") BACKWARD(getpeername4, 4)
SEC("cgroup/getpeername6") BACKWARD(getpeername6, 6)

/// Keeps programs of the node from listening where a NodePort would take their connections away.
static __always_inline int protect(struct bpf_sock *ctx, const struct kalsae_address *address) {
  __u64 netns = bpf_get_netns_cookie(ctx);
  struct kalsae_namespace *ns = bpf_map_lookup_elem(&namespaces, &netns);
  if (!ns || ns->role != KALSAE_ROLE_NODE) return 1;
  struct kalsae_frontend_key key = {
      .port = bpf_htons((__u16)ctx->src_port), .transport = (__u8)ctx->protocol};
  // A port that the kernel chooses is not asked for.
  if (!key.port || (key.transport != IPPROTO_TCP && key.transport != IPPROTO_UDP)) return 1;
  bool is_v4 = is_ipv4(address);
  bool is_any = is_v4 ? !address->word[3] : !(address->word[0] | address->word[1] | address->word[2] | address->word[3]);
  if (!is_any) {
    __u32 *use = bpf_map_lookup_elem(&addresses, address);
    if (!use || !(*use & KALSAE_ADDRESS_NODE_PORT)) return 1;
  }
  key.address.word[2] = is_v4 ? bpf_htonl(0xffff) : 0;
  bool is_taken = bpf_map_lookup_elem(&frontends, &key) != 0;
  if (!is_taken && !is_v4 && is_any) {
    // The unspecified IPv6 address stands for both families.
    key.address.word[2] = bpf_htonl(0xffff);
    is_taken = bpf_map_lookup_elem(&frontends, &key) != 0;
  }
  if (!is_taken) return 1;
  count(KALSAE_BIND_REFUSED);
  if (has_set_retval) bpf_set_retval(-EADDRINUSE);
  return 0;
}

SEC("cgroup/post_bind4") int post_bind4(struct bpf_sock *ctx) {
  struct kalsae_address address = {.word = {0, 0, bpf_htonl(0xffff), ctx->src_ip4}};
  return protect(ctx, &address);
}

SEC("cgroup/post_bind6") int post_bind6(struct bpf_sock *ctx) {
  struct kalsae_address address = {.word = {ctx->src_ip6[0], ctx->src_ip6[1], ctx->src_ip6[2], ctx->src_ip6[3]}};
  return protect(ctx, &address);
}

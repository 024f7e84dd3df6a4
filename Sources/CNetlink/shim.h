#pragma once
#include <errno.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

/// Gets one message: its type, and what follows the netlink header.
typedef void (*kalsae_netlink_sink)(void *context, uint16_t type, const void *payload, uint32_t length);

/// An exchange in progress.
struct kalsae_netlink_exchange {
  kalsae_netlink_sink sink;
  void *context;
  int error;
  int done;
  int interrupted;
  char *text;
  uint32_t text_capacity;
};

static inline int kalsae_netlink_on_valid(struct nl_msg *message, void *argument) {
  struct kalsae_netlink_exchange *exchange = (struct kalsae_netlink_exchange *)argument;
  struct nlmsghdr *header = nlmsg_hdr(message);
  if (header->nlmsg_flags & NLM_F_DUMP_INTR) exchange->interrupted = 1;
  if (exchange->sink)
    exchange->sink(exchange->context, header->nlmsg_type, nlmsg_data(header), (uint32_t)nlmsg_datalen(header));
  return NL_OK;
}

static inline int kalsae_netlink_on_end(struct nl_msg *message, void *argument) {
  struct kalsae_netlink_exchange *exchange = (struct kalsae_netlink_exchange *)argument;
  struct nlmsghdr *header = nlmsg_hdr(message);
  if (header->nlmsg_flags & NLM_F_DUMP_INTR) exchange->interrupted = 1;
  // The end of a dump carries its error.
  if (header->nlmsg_type == NLMSG_DONE && nlmsg_datalen(header) >= (int)sizeof(int))
    memcpy(&exchange->error, nlmsg_data(header), sizeof(int));
  exchange->done = 1;
  return NL_STOP;
}

static inline int kalsae_netlink_on_error(struct sockaddr_nl *peer, struct nlmsgerr *error, void *argument) {
  (void)peer;
  struct kalsae_netlink_exchange *exchange = (struct kalsae_netlink_exchange *)argument;
  exchange->error = error->error;
  exchange->done = 1;
  // The kernel's own words (NETLINK_EXT_ACK) follow the header of the request.
  struct nlmsghdr *header = (struct nlmsghdr *)((char *)error - NLMSG_HDRLEN);
  if (!(header->nlmsg_flags & NLM_F_ACK_TLVS)) return NL_STOP;
  uint32_t offset = (uint32_t)sizeof *error;
  if (!(header->nlmsg_flags & NLM_F_CAPPED)) offset += NLMSG_ALIGN(error->msg.nlmsg_len - NLMSG_HDRLEN);
  uint32_t length = (uint32_t)nlmsg_datalen(header);
  if (offset >= length) return NL_STOP;
  struct nlattr *text =
      nla_find((struct nlattr *)((char *)error + offset), (int)(length - offset), NLMSGERR_ATTR_MSG);
  if (text && exchange->text_capacity) nla_strlcpy(exchange->text, text, exchange->text_capacity);
  return NL_STOP;
}

static inline int kalsae_netlink_ignore_sequence(struct nl_msg *message, void *argument) {
  (void)message;
  (void)argument;
  return NL_OK;
}

/// A socket of the rtnetlink protocol in the calling thread's network namespace. 0 or a negated errno.
static inline int kalsae_netlink_open(struct nl_sock **out, int receive_buffer) {
  struct nl_sock *s = nl_socket_alloc();
  if (!s) return -ENOMEM;
  errno = 0;
  if (nl_connect(s, NETLINK_ROUTE)) {
    int code = errno ? errno : EIO;
    nl_socket_free(s);
    return -code;
  }
  int fd = nl_socket_get_fd(s), one = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof receive_buffer))
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  (void)setsockopt(fd, 270 /* SOL_NETLINK */, NETLINK_EXT_ACK, &one, sizeof one);
  // Dumps are filtered by the kernel as asked, instead of being given whole.
  (void)setsockopt(fd, 270, NETLINK_GET_STRICT_CHK, &one, sizeof one);
  struct timeval timeout = {.tv_sec = 10};
  (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  nl_socket_set_msg_buf_size(s, 65536);
  *out = s;
  return 0;
}

/// Sends a request and receives all of its answers. 0 or a negated errno; -EINTR where a dump changed while it was read.
/// `text` (may be empty) gets the kernel's explanation.
static inline int kalsae_netlink_request(
    struct nl_sock *s, uint16_t type, uint16_t flags, const void *payload, uint32_t length, kalsae_netlink_sink sink,
    void *context, char *text, uint32_t text_capacity) {
  struct nl_msg *message = nlmsg_alloc_size(NLMSG_HDRLEN + NLMSG_ALIGN(length) + 16);
  if (!message) return -ENOMEM;
  if (!(flags & NLM_F_DUMP)) flags |= NLM_F_ACK;
  if (!nlmsg_put(message, NL_AUTO_PORT, NL_AUTO_SEQ, type, 0, flags | NLM_F_REQUEST) ||
      nlmsg_append(message, (void *)payload, length, NLMSG_ALIGNTO) < 0) {
    nlmsg_free(message);
    return -ENOMEM;
  }
  if (text_capacity) *text = 0;
  errno = 0;
  int result = nl_send_auto(s, message);
  int code = errno;
  nlmsg_free(message);
  if (result < 0) return -(code ? code : EIO);

  struct kalsae_netlink_exchange exchange = {
      .sink = sink, .context = context, .text = text, .text_capacity = text_capacity};
  struct nl_cb *cb = nl_cb_alloc(NL_CB_DEFAULT);
  if (!cb) return -ENOMEM;
  nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, kalsae_netlink_on_valid, &exchange);
  nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, kalsae_netlink_on_end, &exchange);
  nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, kalsae_netlink_on_end, &exchange);
  nl_cb_err(cb, NL_CB_CUSTOM, kalsae_netlink_on_error, &exchange);
  while (!exchange.done) {
    errno = 0;
    result = nl_recvmsgs(s, cb);
    code = errno;
    if (result < 0 && !exchange.done) {
      if (result == -NLE_INTR) continue;
      exchange.error = result == -NLE_DUMP_INTR ? -EINTR
                       : result == -NLE_NOMEM   ? -ENOBUFS
                       : result == -NLE_AGAIN   ? -ETIMEDOUT
                                                : -(code ? code : EIO);
      exchange.done = 1;
    }
  }
  nl_cb_put(cb);
  return exchange.error ? exchange.error : exchange.interrupted ? -EINTR : 0;
}

/// Joins a multicast group. 0 or a negated errno.
static inline int kalsae_netlink_join(struct nl_sock *s, int group) {
  return setsockopt(nl_socket_get_fd(s), 270, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) ? -errno : 0;
}

/// Reads what notifications wait, without blocking, for at most `rounds` reads. 0, -ENOBUFS where the kernel had to drop
/// some, or another negated errno.
static inline int kalsae_netlink_notifications(
    struct nl_sock *s, int rounds, kalsae_netlink_sink sink, void *context) {
  struct kalsae_netlink_exchange exchange = {.sink = sink, .context = context};
  struct nl_cb *cb = nl_cb_alloc(NL_CB_DEFAULT);
  if (!cb) return -ENOMEM;
  nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, kalsae_netlink_on_valid, &exchange);
  nl_cb_set(cb, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, kalsae_netlink_ignore_sequence, NULL);
  int result = 0;
  for (int i = 0; i < rounds; i++) {
    errno = 0;
    result = nl_recvmsgs(s, cb);
    int code = errno;
    if (result == -NLE_AGAIN || result >= 0) {
      int again = result >= 0;
      result = 0;
      if (!again) break;
    } else if (result == -NLE_NOMEM) {
      result = -ENOBUFS;
      break;
    } else if (result != -NLE_INTR) {
      result = -(code ? code : EIO);
      break;
    } else {
      result = 0;
    }
  }
  nl_cb_put(cb);
  return result;
}

#define _GNU_SOURCE
#include "socket_diag.h"
#include "ports_shim.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct request {
  struct nlmsghdr header;
  struct inet_diag_req_v2 body;
};

struct job {
  kalsae_udp_filter filter;
  void *context;
  int result;
};

enum { ESTABLISHED = 1, LIMIT = 1 << 16 };

static int ask(int fd, struct request *request) {
  request->header.nlmsg_len = sizeof *request;
  return send(fd, request, sizeof *request, 0) == sizeof *request ? 0 : -errno;
}

/// Lists the sockets of a family that are to be closed.
static int list(int fd, int family, struct job *job, struct inet_diag_sockid *found, int count) {
  struct request request = {
      .header = {.nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .body = {.sdiag_family = (uint8_t)family, .sdiag_protocol = IPPROTO_UDP, .idiag_states = 1 << ESTABLISHED}};
  int error = ask(fd, &request);
  if (error) return error;
  static __thread char buffer[65536] __attribute__((aligned(8)));
  for (;;) {
    ssize_t length = recv(fd, buffer, sizeof buffer, 0);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return length ? -errno : -EIO;
    int left = (int)length;
    for (struct nlmsghdr *header = (struct nlmsghdr *)buffer; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return count;
      if (header->nlmsg_type == NLMSG_ERROR) {
        int code = ((struct nlmsgerr *)NLMSG_DATA(header))->error;
        // A kernel without UDP diagnostics has nothing that could be closed.
        return code == -ENOENT ? count : code ? code : count;
      }
      if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY || header->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
        continue;
      const struct inet_diag_msg *message = NLMSG_DATA(header);
      struct kalsae_udp_socket socket = {
          .cookie = (uint64_t)message->id.idiag_cookie[1] << 32 | message->id.idiag_cookie[0],
          .port = message->id.idiag_dport};
      if (message->idiag_family == AF_INET) {
        socket.peer[2] = htonl(0xffff);
        socket.peer[3] = message->id.idiag_dst[0];
      } else {
        memcpy(socket.peer, message->id.idiag_dst, sizeof socket.peer);
      }
      if (count < LIMIT && job->filter(job->context, &socket)) found[count++] = message->id;
    }
  }
}

static int close_all(struct job *job) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
  if (fd < 0) return -errno;
  struct timeval timeout = {.tv_sec = 5};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  struct inet_diag_sockid *found = calloc(LIMIT, sizeof *found);
  int first = found ? list(fd, AF_INET, job, found, 0) : -ENOMEM;
  int count = first < 0 ? first : list(fd, AF_INET6, job, found, first);
  for (int i = 0; i < count; i++) {
    struct request request = {
        .header = {.nlmsg_type = SOCK_DESTROY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .body = {.sdiag_family = (uint8_t)(i < first ? AF_INET : AF_INET6), .sdiag_protocol = IPPROTO_UDP,
                 .idiag_states = 1 << ESTABLISHED, .id = found[i]}};
    char answer[1024];
    int error = ask(fd, &request);
    if (!error && recv(fd, answer, sizeof answer, 0) < 0) error = -errno;
    if (!error) error = ((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
    // One that its program has closed meanwhile is as good.
    if (error && error != -ENOENT) {
      count = error;
      break;
    }
  }
  free(found);
  close(fd);
  return count;
}

static void run(void *argument) {
  struct job *job = argument;
  job->result = close_all(job);
}

int kalsae_udp_close(const char *path, kalsae_udp_filter filter, void *context) {
  struct job job = {.filter = filter, .context = context};
  int error = kalsae_in_namespace(path ? path : "/proc/thread-self/ns/net", run, &job);
  return error ? error : job.result;
}

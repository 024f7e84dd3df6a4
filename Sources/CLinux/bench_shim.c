#define _GNU_SOURCE
#include "bench_shim.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static struct sockaddr_in name(uint32_t address, uint16_t port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
}

static void bound(int fd) {
  // Nothing here takes long: what does not come is an error and not the end of the benchmark.
  struct timeval limit = {.tv_sec = 5};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

int kalsae_bench_listen(uint16_t port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  if (fd < 0) return -errno;
  struct sockaddr_in any = name(0, port);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  bound(fd);
  if (bind(fd, (struct sockaddr *)&any, sizeof any) || listen(fd, 64)) {
    int error = -errno;
    close(fd);
    return error;
  }
  return fd;
}

static int64_t echo(int client, int server, int count) {
  char octet = 1;
  int one = 1;
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  bound(client);
  bound(server);
  int64_t start = now();
  for (int i = 0; i < count; i++)
    if (send(client, &octet, 1, 0) != 1 || recv(server, &octet, 1, 0) != 1 || send(server, &octet, 1, 0) != 1 ||
        recv(client, &octet, 1, 0) != 1)
      return -(errno ? errno : EIO);
  return (now() - start) / count;
}

int64_t kalsae_bench_tcp(int listener, uint32_t address, uint16_t port, int count, int64_t *round_trip) {
  struct sockaddr_in peer = name(address, port);
  // Closed by a reset, so that no port waits.
  struct linger hard = {.l_onoff = 1, .l_linger = 0};
  int64_t total = 0;
  for (int i = 0; i < count; i++) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    bound(fd);
    int64_t start = now();
    int failed = connect(fd, (struct sockaddr *)&peer, sizeof peer);
    total += now() - start;
    int error = -errno;
    int server = failed ? -1 : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (!failed && server < 0) error = -errno;
    if (server >= 0 && round_trip && i == count - 1) *round_trip = echo(fd, server, count);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
    if (server < 0) return error;
    setsockopt(server, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(server);
  }
  return total / count;
}

int64_t kalsae_bench_udp(uint32_t address, uint16_t port, int count) {
  struct sockaddr_in peer = name(address, port);
  int64_t total = 0;
  for (int i = 0; i < count; i++) {
    // A socket of its own for each: nothing is remembered from the one before.
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int64_t start = now();
    int failed = connect(fd, (struct sockaddr *)&peer, sizeof peer);
    total += now() - start;
    int error = -errno;
    close(fd);
    if (failed) return error;
  }
  return total / count;
}

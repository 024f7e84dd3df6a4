#pragma once
#include <stdint.h>

/// A connected UDP socket: its cookie and its peer, IPv4 as ::ffff:a.b.c.d, the port as on the wire.
struct kalsae_udp_socket {
  uint64_t cookie;
  uint32_t peer[4];
  uint16_t port;
};

/// Says whether a socket is to be closed: 1 or 0.
typedef int (*kalsae_udp_filter)(void *context, const struct kalsae_udp_socket *socket);

/// Closes those of the connected UDP sockets of a network namespace (`path` NULL: the caller's) that `filter` wants: their
/// programs get ECONNABORTED. The filter is called on another thread while this waits. Returns how many there were, or a
/// negated errno.
int kalsae_udp_close(const char *path, kalsae_udp_filter filter, void *context);

#pragma once
// Traffic for the live benchmarks: UDP senders, sinks and echoes that cost as little as sockets allow, on threads of
// their own. A socket stays in the namespace that it was opened in, whatever thread uses it.
#include <stdint.h>

/// A UDP socket over IPv4, bound to `port` (0: the kernel chooses) of all addresses, with room for a burst. The
/// descriptor, or a negated errno.
int kalsae_udp_open(uint16_t port);
/// Connects it; the address as a number in host order. 0 or a negated errno.
int kalsae_udp_connect(int descriptor, uint32_t address, uint16_t port);

struct kalsae_rate {
  /// Nanoseconds in which packets were sent.
  uint64_t nanoseconds;
  uint64_t sent;
  uint64_t received;
};
/// Sends packets of `size` octets of payload from one socket and counts what arrives at the other, where it is looked every
/// half millisecond: waking the receiver for each packet would be paid by whoever carries it. `rate` in packets a second, 0:
/// as many as can be. 0 or a negated errno.
int kalsae_udp_rate(
    int sender, int receiver, uint64_t rate, uint64_t nanoseconds, uint32_t size, struct kalsae_rate *_Nonnull out);
/// Sends a packet, waits for its echo, and so on: at most `count` times and at most for `nanoseconds`. `samples` gets the
/// round-trip times in nanoseconds. Their number, or a negated errno. A lost packet is given up after 100 ms.
int kalsae_udp_round_trips(
    int client, int server, uint32_t size, uint32_t count, uint64_t nanoseconds, uint64_t *_Nonnull samples);

/// Keeps all processors from sleeping by threads that run only where nobody else wants to, until
/// kalsae_let_sleep; waking a virtual processor costs more than what is measured. 0 or a negated errno.
int kalsae_keep_awake(void);
void kalsae_let_sleep(void);

/// Makes a process (all its threads) run on one processor alone. 0 or a negated errno.
int kalsae_process_pin(int pid, int processor);

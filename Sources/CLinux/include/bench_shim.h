#pragma once
#include <stdint.h>

/// Connections over TCP within the caller's network namespace, from the calling thread alone: `listener` accepts what is
/// connected to `address` (IPv4, host order) and `port`. Nanoseconds that connect(2) takes, the mean of `count`, and where
/// `round_trip` is not NULL those of an octet there and back on the last of them, the mean of `count`. A negated errno on
/// failure.
int64_t kalsae_bench_tcp(int listener, uint32_t address, uint16_t port, int count, int64_t *round_trip);
/// The same for connect(2) of UDP, which sends nothing.
int64_t kalsae_bench_udp(uint32_t address, uint16_t port, int count);
/// A socket that listens on all IPv4 addresses at `port`.
int kalsae_bench_listen(uint16_t port);

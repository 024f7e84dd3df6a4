#pragma once
// Super-frames behind tunnel headers, finished by the kernel: see tunnel_shim.c.
#include <stdint.h>

/// What the mark of a packet says to the program: the kind of the outer headers.
#define KALSAE_TUNNEL_IPV6 1u
#define KALSAE_TUNNEL_GRE 2u
/// UDP with an Ethernet header behind the shim header: VXLAN, Geneve.
#define KALSAE_TUNNEL_UDP 4u
/// The longest outer headers that the program takes.
#define KALSAE_TUNNEL_LONGEST 80u

/// The mark of a packet whose outer headers, from the network layer on, have `length` octets.
static inline uint32_t kalsae_tunnel_mark(uint32_t kind, uint32_t length) { return 0x6b610000u | length << 8 | kind; }

/// Attaches the program to the egress of a device (tcx, Linux 6.6). It stays as long as the descriptor that is returned
/// is open, at the latest until the process ends. A negated errno on failure; `*step` then says of what.
int kalsae_tunnel_attach(int ifindex, const char *_Nullable *_Nonnull step);

#pragma once
// AF_XDP sockets (linux/if_xdp.h) and the memory that they share with the kernel.
#include <stdint.h>

/// Octets that the kernel keeps before a frame in its chunk (XDP_PACKET_HEADROOM).
#define KALSAE_XDP_HEADROOM 256

/// A ring that is shared with the kernel, by the side that belongs to us: `position` is the next entry that we read or write.
struct kalsae_xdp_ring {
  uint32_t *producer;
  uint32_t *consumer;
  uint32_t *flags;
  void *entries;
  uint32_t size;
  uint32_t position;
  void *map;
  uint64_t map_size;
};

/// A socket with its four rings.
struct kalsae_xdp {
  int32_t descriptor;
  /// Whether the device's driver reads and writes the memory itself.
  int32_t is_zero_copy;
  struct kalsae_xdp_ring fill;
  struct kalsae_xdp_ring completion;
  struct kalsae_xdp_ring receive;
  struct kalsae_xdp_ring transmit;
};

struct kalsae_xdp_options {
  int32_t ifindex;
  uint32_t queue;
  /// The memory of all frames, in chunks.
  void *memory;
  uint64_t memory_size;
  uint32_t chunk;
  /// Octets to keep free before a frame, beyond the kernel's own.
  uint32_t headroom;
  /// Entries of the rings for received and for sent frames: powers of two.
  uint32_t receive_size;
  uint32_t transmit_size;
  /// A socket that has the memory registered; negative: none.
  int32_t shared;
};

/// Opens a socket in the calling thread's network namespace with its rings, bound to nothing yet. 0, or a negated errno;
/// `*step` then says what failed, and nothing is left open.
int kalsae_xdp_open(const struct kalsae_xdp_options *options, struct kalsae_xdp *out, const char **step);
/// Binds a socket to its device: from now on frames are received into what is in the fill ring. 0 or a negated errno.
int kalsae_xdp_bind(struct kalsae_xdp *socket, const struct kalsae_xdp_options *options, const char **step);
void kalsae_xdp_close(struct kalsae_xdp *socket);

/// Has the kernel move packets of the socket's device when the socket asks, `budget` at once, and not by interrupts.
/// 0 or a negated errno.
int kalsae_xdp_prefer_polling(int descriptor, int microseconds, int budget);
/// How long a device holds packets back before it interrupts, in nanoseconds, and how often it may do so without one having
/// come.
struct kalsae_xdp_moderation {
  uint64_t timeout;
  uint64_t deferrals;
};
/// Sets that for the device of that name in the calling thread's network namespace; what was set goes to `*before`.
/// 0 or a negated errno.
int kalsae_xdp_moderate(
    const char *device, struct kalsae_xdp_moderation moderation, struct kalsae_xdp_moderation *before);
/// Opens the device's time, to be set again and again. A descriptor or a negated errno.
int kalsae_xdp_open_timeout(const char *device);
/// 0 or a negated errno.
int kalsae_xdp_set_timeout(int descriptor, uint64_t nanoseconds);
/// How many queues the device of that name receives by; in `*transmit`, how many it sends by; 1 where it does not say.
uint32_t kalsae_xdp_queues(const char *device, uint32_t *transmit);
/// Has the device of that name, in the calling thread's network namespace, receive and send by at least `count` queues each
/// where its driver counts them apart, as a veth pair's does. 0 or a negated errno; ERANGE: it has not so many.
int kalsae_xdp_raise_queues(const char *device, uint32_t count);

/// Has the kernel move what it has for the socket now, without waiting: received packets, and those in the transmit ring.
/// 0 or a negated errno.
int kalsae_xdp_drive(int descriptor);
int kalsae_xdp_send(int descriptor);

/// What the kernel counts for a socket (`struct xdp_statistics`).
struct kalsae_xdp_statistics {
  uint64_t receive_dropped;
  uint64_t receive_invalid;
  uint64_t transmit_invalid;
  uint64_t receive_ring_full;
  uint64_t fill_ring_empty;
  uint64_t transmit_ring_empty;
};
int kalsae_xdp_count(int descriptor, struct kalsae_xdp_statistics *out);

struct kalsae_xdp_frame {
  uint64_t address;
  uint32_t length;
  uint32_t options;
};

/// Entries that the kernel has written into a ring and we have not read.
static inline uint32_t kalsae_xdp_waiting(const struct kalsae_xdp_ring *ring) {
  return __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) - ring->position;
}
/// Entries that we may write into a ring.
static inline uint32_t kalsae_xdp_room(const struct kalsae_xdp_ring *ring) {
  return ring->size - (ring->position - __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE));
}
/// Entries that we have written and the kernel has not read.
static inline uint32_t kalsae_xdp_unread(const struct kalsae_xdp_ring *ring) {
  return ring->position - __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
}
static inline struct kalsae_xdp_frame kalsae_xdp_read_frame(const struct kalsae_xdp_ring *ring, uint32_t i) {
  return ((const struct kalsae_xdp_frame *)ring->entries)[(ring->position + i) & (ring->size - 1)];
}
static inline void kalsae_xdp_write_frame(
    const struct kalsae_xdp_ring *ring, uint32_t i, uint64_t address, uint32_t length) {
  ((struct kalsae_xdp_frame *)ring->entries)[(ring->position + i) & (ring->size - 1)] =
      (struct kalsae_xdp_frame){address, length, 0};
}
static inline uint64_t kalsae_xdp_read_address(const struct kalsae_xdp_ring *ring, uint32_t i) {
  return ((const uint64_t *)ring->entries)[(ring->position + i) & (ring->size - 1)];
}
static inline void kalsae_xdp_write_address(const struct kalsae_xdp_ring *ring, uint32_t i, uint64_t address) {
  ((uint64_t *)ring->entries)[(ring->position + i) & (ring->size - 1)] = address;
}
/// Gives `count` entries that were read back to the kernel.
static inline void kalsae_xdp_consume(struct kalsae_xdp_ring *ring, uint32_t count) {
  ring->position += count;
  __atomic_store_n(ring->consumer, ring->position, __ATOMIC_RELEASE);
}
/// Hands the kernel `count` entries that were written.
static inline void kalsae_xdp_produce(struct kalsae_xdp_ring *ring, uint32_t count) {
  ring->position += count;
  __atomic_store_n(ring->producer, ring->position, __ATOMIC_RELEASE);
}
/// Whether the kernel wants a system call before it looks at the ring (XDP_RING_NEED_WAKEUP).
static inline int kalsae_xdp_needs_wakeup(const struct kalsae_xdp_ring *ring) {
  return (int)(__atomic_load_n(ring->flags, __ATOMIC_RELAXED) & 1);
}

/// Whose a chunk is: written by whoever has it, looked at by others only to find their own.
static inline uint16_t kalsae_xdp_owner(const uint16_t *owners, uint32_t chunk) {
  return __atomic_load_n(owners + chunk, __ATOMIC_RELAXED);
}
static inline void kalsae_xdp_set_owner(uint16_t *owners, uint32_t chunk, uint16_t owner) {
  __atomic_store_n(owners + chunk, owner, __ATOMIC_RELAXED);
}

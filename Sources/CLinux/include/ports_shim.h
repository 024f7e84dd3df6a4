#pragma once
// What ports need of Linux: packet rings, sendmmsg, network devices, epoll.
#include <linux/filter.h>
#include <stdint.h>
#include <sys/uio.h>

/// `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6) in native byte order; AF_PACKET uses the first ten octets.
struct kalsae_vnet_header {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t header_length;
  uint16_t gso_size;
  uint16_t checksum_start;
  uint16_t checksum_offset;
  uint16_t buffers;
};

/// One message of `sendmmsg`: header and frame. Laid out as `struct mmsghdr`, which needs `_GNU_SOURCE`.
struct kalsae_message {
  void *name;
  uint32_t name_length;
  struct iovec *iov;
  uint64_t iov_count;
  void *control;
  uint64_t control_length;
  int64_t flags;
  uint64_t sent;
};

/// A control message of `sendmmsg` that sets the packet's mark (SO_MARK).
struct kalsae_mark_message {
  uint64_t length;
  int32_t level;
  int32_t type;
  uint32_t mark;
  uint32_t padding;
};
void kalsae_mark_set(struct kalsae_mark_message *message, uint32_t mark);

/// A network device as its ioctls describe it.
struct kalsae_interface {
  int32_t index;
  int32_t mtu;
  uint32_t flags;
  uint16_t hardware_type;
  uint8_t mac[6];
  char name[16];
};

/// A received frame of a TPACKET_V2 ring.
struct kalsae_ring_frame {
  uint32_t status;
  uint32_t length;
  uint32_t captured;
  uint32_t mac_offset;
  uint64_t timestamp;
  uint16_t vlan_tci;
  uint16_t vlan_tpid;
};

struct kalsae_packet_options {
  int32_t ifindex;
  uint32_t slot_size;
  uint32_t block_size;
  uint32_t blocks;
  uint32_t reserve;
  uint32_t send_buffer;
  /// Not 0: frames that do not fit a slot are also queued whole, in as many octets, to be taken by kalsae_packet_take.
  uint32_t receive_buffer;
  int32_t promiscuous;
  int32_t qdisc_bypass;
  const struct sock_filter *filter;
  uint16_t filter_length;
};

/// The status word of the slot at `slot`; the slot's other octets are as new as the word.
static inline uint32_t kalsae_ring_status(const void *slot) {
  return __atomic_load_n((const uint32_t *)slot, __ATOMIC_ACQUIRE);
}
/// Hands the slot back to the kernel.
static inline void kalsae_ring_return(void *slot) { __atomic_store_n((uint32_t *)slot, 0, __ATOMIC_RELEASE); }

/// Reads the header of a filled slot (`struct tpacket2_hdr`).
static inline void kalsae_ring_read(const void *slot, struct kalsae_ring_frame *out) {
  const uint32_t *h = (const uint32_t *)slot;
  const uint16_t *s = (const uint16_t *)slot;
  out->status = h[0];
  out->length = h[1];
  out->captured = h[2];
  out->mac_offset = s[6];
  out->timestamp = (uint64_t)h[4] * 1000000000u + h[5];
  out->vlan_tci = s[12];
  out->vlan_tpid = s[13];
}

/// The name of an error (`EPERM`) and its description; never null.
const char *kalsae_errno_name(int error);
const char *kalsae_errno_text(int error);

/// Opens a packet socket with a TPACKET_V2 receive ring and vnet headers, bound to no device yet. Returns the descriptor
/// and where the ring is mapped, or the negated errno; `*step` then says what failed. Takes some 10 ms: the kernel waits
/// until nobody can be using the socket without its ring.
int kalsae_packet_prepare(const struct kalsae_packet_options *options, void **ring, const char **step);
/// Binds a prepared socket to its device: from now on it receives. 0 or a negated errno.
int kalsae_packet_bind(int descriptor, const struct kalsae_packet_options *options, const char **step);
/// Gives a packet socket and the memory of its ring back, on a thread of its own: the kernel waits some 30 ms until nobody
/// can be using them, and several that go at once wait together.
void kalsae_ring_close(int descriptor, void *memory, unsigned long size);
/// How many rings are being given back.
int kalsae_rings_closing(void);
/// Maps the receive ring of a packet socket that another process set up. 0 or a negated errno.
int kalsae_packet_map(int descriptor, unsigned long size, void **ring);
/// Takes a packet socket's filter away: everything comes in.
void kalsae_packet_unfilter(int descriptor);
/// The number of the group that a packet socket shares its device's packets with (PACKET_FANOUT); -ENOENT: none.
int kalsae_packet_group(int descriptor);
/// Makes a packet socket, which must be bound, the first of a group, unless it is in one, and a classic BPF program say which
/// of the group gets a packet: its result modulo their number. 0 or a negated errno.
int kalsae_packet_lead(int descriptor, const struct sock_filter *program, uint16_t length);
/// Puts a packet socket, which must be bound, into the group of another, unless it is there. 0 or a negated errno.
int kalsae_packet_follow(int descriptor, int leader);
/// Puts another classic BPF program in the place of a packet socket's filter. 0 or a negated errno.
int kalsae_packet_filter(int descriptor, const struct sock_filter *filter, uint16_t length);
/// Takes the next frame that did not fit its slot, with its vnet header of ten octets before it. The number of octets,
/// or a negated errno.
long kalsae_packet_take(int descriptor, void *buffer, unsigned long capacity);
/// Reads and resets the kernel's count of frames that did not fit the ring. 0 or a negated errno.
int kalsae_packet_drops(int descriptor, uint32_t *drops);
/// The pending error of a socket, which is cleared.
int kalsae_socket_error(int descriptor);
/// The device that a packet socket is bound to; -1 once that device is gone.
int kalsae_packet_ifindex(int descriptor);
/// `sendmmsg` without blocking. The number of messages sent, or the negated errno.
int kalsae_send(int descriptor, struct kalsae_message *messages, unsigned count);

/// Describes the device of that name (or, where `name` is empty, of `out->index`). 0 or a negated errno.
int kalsae_interface_get(const char *name, struct kalsae_interface *out);
/// Applies the parts that are not zero or null. 0 or a negated errno; `*step` then says what failed.
int kalsae_interface_set(const char *name, const uint8_t *mac, int mtu, int up, const char **step);

/// Runs `body` on a new thread in the network namespace `path`. 0, or the negated errno of what failed before `body`.
int kalsae_in_namespace(const char *path, void (*body)(void *), void *context);
/// The same for a namespace that is open.
int kalsae_in_namespace_descriptor(int descriptor, void (*body)(void *), void *context);

/// What tells one namespace from another.
struct kalsae_namespace_identity {
  uint64_t device;
  uint64_t inode;
};
/// Finds out about the network namespace at `path`. 0, or a negated errno: -EINVAL where it is something else.
int kalsae_namespace_identify(const char *path, struct kalsae_namespace_identity *out);

/// Opens a TAP device with vnet headers of 12 octets, non-blocking, creating it if needed. `name` (16 octets) is
/// read and written. The descriptor or a negated errno; `*offloads` gets the TUN_F_ bits that the kernel took.
int kalsae_tap_open(char *name, int persistent, uint32_t *offloads, const char **step);

/// Reads one frame with its vnet header before it. The number of octets, or a negated errno.
long kalsae_tap_read(int descriptor, void *buffer, unsigned long capacity);
/// Writes one frame. 0 or a negated errno.
int kalsae_tap_write(int descriptor, const struct kalsae_vnet_header *header, const void *frame, unsigned long length);

#define KALSAE_TUN_CSUM 0x01u
#define KALSAE_TUN_TSO4 0x02u
#define KALSAE_TUN_TSO6 0x04u
#define KALSAE_TUN_TSO_ECN 0x08u
#define KALSAE_TUN_USO4 0x20u
#define KALSAE_TUN_USO6 0x40u

/// epoll with levels: a set, a wake-up descriptor, waiting with nanoseconds.
int kalsae_poll_create(void);
int kalsae_poll_add(int set, int descriptor, uint64_t token);
int kalsae_poll_remove(int set, int descriptor);
/// Waits for at most `nanoseconds` (negative: for ever); tokens of what is ready go to `tokens`.
/// Their number, or a negated errno; an interrupted wait returns 0.
int kalsae_poll_wait(int set, uint64_t *tokens, int capacity, int64_t nanoseconds);
/// Waits until the socket can be written, at most `milliseconds`.
int kalsae_poll_writable(int descriptor, int milliseconds);
int kalsae_event_create(void);
void kalsae_event_signal(int descriptor);
void kalsae_event_clear(int descriptor);

/// Whether the running kernel is `major.minor` or newer.
int kalsae_kernel_at_least(int major, int minor);

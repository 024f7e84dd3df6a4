#define _GNU_SOURCE
#include "agent_shim.h"
#include "ports_shim.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct kalsae_message) == sizeof(struct mmsghdr), "struct mmsghdr");
_Static_assert(sizeof(struct kalsae_vnet_header) == 12, "struct virtio_net_hdr_v1");

const char *kalsae_errno_name(int error) {
  const char *name = strerrorname_np(error);
  return name ? name : "unknown error";
}

const char *kalsae_errno_text(int error) {
  const char *text = strerrordesc_np(error);
  return text ? text : "unknown error";
}

static int set_int(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value);
}

int kalsae_packet_prepare(const struct kalsae_packet_options *o, void **ring, const char **step) {
  // Protocol 0 until everything is set up: nothing is received from devices that are not ours.
  *step = "open a packet socket";
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  int error;
  *ring = MAP_FAILED;
  size_t size = (size_t)o->block_size * o->blocks;

  *step = "set packet options";
  if (set_int(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2)) goto fail;
  if (set_int(fd, SOL_PACKET, PACKET_RESERVE, (int)o->reserve)) goto fail;
  if (set_int(fd, SOL_PACKET, PACKET_VNET_HDR, 1)) goto fail;
  if (set_int(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)) goto fail;
  if (o->qdisc_bypass && set_int(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1)) goto fail;
  if (set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, (int)o->send_buffer))
    (void)set_int(fd, SOL_SOCKET, SO_SNDBUF, (int)o->send_buffer);
  if (o->receive_buffer) {
    if (set_int(fd, SOL_PACKET, PACKET_COPY_THRESH, 1)) goto fail;
    if (set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, (int)o->receive_buffer))
      (void)set_int(fd, SOL_SOCKET, SO_RCVBUF, (int)o->receive_buffer);
  }
  if (o->filter_length) {
    *step = "attach the packet filter";
    struct sock_fprog program = {.len = o->filter_length, .filter = (struct sock_filter *)o->filter};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program)) goto fail;
  }

  *step = "create the receive ring";
  struct tpacket_req request = {
      .tp_block_size = o->block_size,
      .tp_block_nr = o->blocks,
      .tp_frame_size = o->slot_size,
      .tp_frame_nr = o->block_size / o->slot_size * o->blocks,
  };
  if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request)) goto fail;
  *step = "map the receive ring";
  *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (*ring == MAP_FAILED) goto fail;
  return fd;

fail:
  error = errno;
  if (*ring != MAP_FAILED) munmap(*ring, size);
  close(fd);
  return -error;
}

int kalsae_packet_bind(int fd, const struct kalsae_packet_options *o, const char **step) {
  *step = "bind to the device";
  struct sockaddr_ll address = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = o->ifindex};
  // A device that is down can be bound all the same: it delivers once it is up.
  if (bind(fd, (struct sockaddr *)&address, sizeof address) && errno != ENETDOWN) return -errno;
  if (o->promiscuous) {
    *step = "enter promiscuous mode";
    struct packet_mreq membership = {.mr_ifindex = o->ifindex, .mr_type = PACKET_MR_PROMISC};
    if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership)) return -errno;
  }
  return 0;
}

struct ring {
  int descriptor;
  void *memory;
  size_t size;
};

static atomic_int rings_closing;

int kalsae_rings_closing(void) { return atomic_load(&rings_closing); }

static void ring_close(void *argument) {
  // The last of the two lets the socket go, and waits until no processor can be using it.
  struct ring *ring = argument;
  munmap(ring->memory, ring->size);
  close(ring->descriptor);
  free(ring);
  atomic_fetch_sub(&rings_closing, 1);
}

void kalsae_ring_close(int fd, void *memory, unsigned long size) {
  struct ring *ring = malloc(sizeof *ring);
  if (ring) {
    *ring = (struct ring){fd, memory, size};
    atomic_fetch_add(&rings_closing, 1);
    if (!kalsae_thread_start("kalsae-close", ring_close, ring)) return;
    atomic_fetch_sub(&rings_closing, 1);
    free(ring);
  }
  munmap(memory, size);
  close(fd);
}

int kalsae_packet_map(int fd, unsigned long size, void **ring) {
  *ring = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return *ring == MAP_FAILED ? -errno : 0;
}

int kalsae_packet_filter(int fd, const struct sock_filter *filter, uint16_t length) {
  struct sock_fprog program = {.len = length, .filter = (struct sock_filter *)filter};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) ? -errno : 0;
}

int kalsae_packet_group(int fd) {
  int group = 0;
  socklen_t length = sizeof group;
  if (getsockopt(fd, SOL_PACKET, PACKET_FANOUT, &group, &length)) return -errno;
  // Number and type; 0: no group.
  return group >> 16 ? group & 0xffff : -ENOENT;
}

int kalsae_packet_lead(int fd, const struct sock_filter *filter, uint16_t length) {
  const int type = PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_UNIQUEID;
  if (kalsae_packet_group(fd) < 0 && set_int(fd, SOL_PACKET, PACKET_FANOUT, type << 16)) return -errno;
  struct sock_fprog program = {.len = length, .filter = (struct sock_filter *)filter};
  return setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof program) ? -errno : 0;
}

int kalsae_packet_follow(int fd, int leader) {
  const int group = kalsae_packet_group(leader), own = kalsae_packet_group(fd);
  if (group < 0) return group;
  if (own >= 0) return own == group ? 0 : -EALREADY;
  return set_int(fd, SOL_PACKET, PACKET_FANOUT, group | PACKET_FANOUT_CBPF << 16) ? -errno : 0;
}

void kalsae_packet_unfilter(int fd) { (void)set_int(fd, SOL_SOCKET, SO_DETACH_FILTER, 0); }

long kalsae_packet_take(int fd, void *buffer, unsigned long capacity) {
  ssize_t count;
  do count = recv(fd, buffer, capacity, MSG_DONTWAIT | MSG_TRUNC);
  while (count < 0 && errno == EINTR);
  if (count < 0) return -errno;
  return (unsigned long)count > capacity ? -EMSGSIZE : (long)count;
}

int kalsae_packet_drops(int fd, uint32_t *drops) {
  struct tpacket_stats statistics;
  socklen_t length = sizeof statistics;
  if (getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &length)) return -errno;
  *drops = statistics.tp_drops;
  return 0;
}

int kalsae_socket_error(int fd) {
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length)) return errno;
  return error;
}

int kalsae_packet_ifindex(int fd) {
  struct sockaddr_ll address = {0};
  socklen_t length = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &length)) return -1;
  return address.sll_ifindex;
}

_Static_assert(sizeof(struct kalsae_mark_message) == CMSG_SPACE(sizeof(uint32_t)), "struct cmsghdr");
_Static_assert(offsetof(struct kalsae_mark_message, mark) == CMSG_LEN(0), "struct cmsghdr");

void kalsae_mark_set(struct kalsae_mark_message *message, uint32_t mark) {
  *message = (struct kalsae_mark_message){
      .length = CMSG_LEN(sizeof mark), .level = SOL_SOCKET, .type = SO_MARK, .mark = mark};
}

int kalsae_send(int fd, struct kalsae_message *messages, unsigned count) {
  int sent;
  do sent = sendmmsg(fd, (struct mmsghdr *)messages, count, MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

int kalsae_interface_get(const char *name, struct kalsae_interface *out) {
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct ifreq request = {0};
  int result = 0;
  if (*name) {
    if (strlen(name) >= IFNAMSIZ) {
      close(fd);
      return -ENODEV;
    }
    strcpy(request.ifr_name, name);
  } else {
    request.ifr_ifindex = out->index;
    if (ioctl(fd, SIOCGIFNAME, &request)) goto fail;
  }
  memset(out, 0, sizeof *out);
  memcpy(out->name, request.ifr_name, sizeof out->name - 1);
  if (ioctl(fd, SIOCGIFINDEX, &request)) goto fail;
  out->index = request.ifr_ifindex;
  if (ioctl(fd, SIOCGIFMTU, &request)) goto fail;
  out->mtu = request.ifr_mtu;
  if (ioctl(fd, SIOCGIFFLAGS, &request)) goto fail;
  out->flags = (uint16_t)request.ifr_flags;
  if (ioctl(fd, SIOCGIFHWADDR, &request)) goto fail;
  out->hardware_type = request.ifr_hwaddr.sa_family;
  memcpy(out->mac, request.ifr_hwaddr.sa_data, 6);
  close(fd);
  return 0;
fail:
  result = -errno;
  close(fd);
  return result;
}

int kalsae_interface_set(const char *name, const uint8_t *mac, int mtu, int up, const char **step) {
  *step = "open a socket";
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct ifreq request = {0};
  int result = 0;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (mac) {
    *step = "set the hardware address";
    request.ifr_hwaddr.sa_family = 1;  // ARPHRD_ETHER
    memcpy(request.ifr_hwaddr.sa_data, mac, 6);
    if (ioctl(fd, SIOCSIFHWADDR, &request)) goto fail;
  }
  if (mtu) {
    *step = "set the MTU";
    request.ifr_mtu = mtu;
    if (ioctl(fd, SIOCSIFMTU, &request)) goto fail;
  }
  if (up) {
    *step = "bring the device up";
    if (ioctl(fd, SIOCGIFFLAGS, &request)) goto fail;
    request.ifr_flags |= IFF_UP;
    if (ioctl(fd, SIOCSIFFLAGS, &request)) goto fail;
  }
  close(fd);
  return 0;
fail:
  result = -errno;
  close(fd);
  return result;
}

struct in_namespace {
  int descriptor;
  int error;
  void (*body)(void *);
  void *context;
};

static void *in_namespace_main(void *argument) {
  struct in_namespace *job = argument;
  if (setns(job->descriptor, CLONE_NEWNET))
    job->error = -errno;
  else
    job->body(job->context);
  return NULL;
}

int kalsae_in_namespace_descriptor(int descriptor, void (*body)(void *), void *context) {
  // A thread of its own: the caller's namespace is never changed, so nothing has to be restored.
  struct in_namespace job = {descriptor, 0, body, context};
  pthread_t thread;
  int error = pthread_create(&thread, NULL, in_namespace_main, &job);
  if (error) return -error;
  pthread_join(thread, NULL);
  return job.error;
}

int kalsae_in_namespace(const char *path, void (*body)(void *), void *context) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  int result = kalsae_in_namespace_descriptor(fd, body, context);
  close(fd);
  return result;
}

int kalsae_namespace_identify(const char *path, struct kalsae_namespace_identity *out) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -errno;
  struct stat status;
  int result = 0;
  if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET)
    result = -EINVAL;
  else if (fstat(fd, &status))
    result = -errno;
  close(fd);
  if (result) return result;
  out->device = status.st_dev;
  out->inode = status.st_ino;
  return 0;
}

int kalsae_tap_open(char *name, int persistent, uint32_t *offloads, const char **step) {
  *step = "open /dev/net/tun";
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -errno;
  int result;
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  *step = "create the TAP device";
  if (ioctl(fd, TUNSETIFF, &request)) goto fail;
  memcpy(name, request.ifr_name, IFNAMSIZ);
  int size = sizeof(struct kalsae_vnet_header);
  *step = "set the size of the vnet header";
  if (ioctl(fd, TUNSETVNETHDRSZ, &size)) goto fail;
  // Newest first; older kernels know fewer bits and refuse them all together.
  static const uint32_t sets[] = {
      KALSAE_TUN_CSUM | KALSAE_TUN_TSO4 | KALSAE_TUN_TSO6 | KALSAE_TUN_TSO_ECN | KALSAE_TUN_USO4 | KALSAE_TUN_USO6,
      KALSAE_TUN_CSUM | KALSAE_TUN_TSO4 | KALSAE_TUN_TSO6 | KALSAE_TUN_TSO_ECN, KALSAE_TUN_CSUM, 0};
  *step = "set offloads";
  for (unsigned i = 0;; i++) {
    if (i == sizeof sets / sizeof *sets) goto fail;
    *offloads = sets[i];
    if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)sets[i]) == 0) break;
  }
  *step = "make the TAP device persistent";
  if (persistent && ioctl(fd, TUNSETPERSIST, 1UL)) goto fail;
  return fd;
fail:
  result = -errno;
  close(fd);
  return result;
}

long kalsae_tap_read(int descriptor, void *buffer, unsigned long capacity) {
  ssize_t count;
  do count = read(descriptor, buffer, capacity);
  while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : count;
}

int kalsae_tap_write(int descriptor, const struct kalsae_vnet_header *header, const void *frame, unsigned long length) {
  const struct iovec parts[] = {{(void *)header, sizeof *header}, {(void *)frame, length}};
  ssize_t count;
  do count = writev(descriptor, parts, 2);
  while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : 0;
}

int kalsae_poll_create(void) {
  int set = epoll_create1(EPOLL_CLOEXEC);
  return set < 0 ? -errno : set;
}

int kalsae_poll_add(int set, int descriptor, uint64_t token) {
  struct epoll_event event = {.events = EPOLLIN, .data.u64 = token};
  return epoll_ctl(set, EPOLL_CTL_ADD, descriptor, &event) ? -errno : 0;
}

int kalsae_poll_remove(int set, int descriptor) {
  struct epoll_event event = {0};
  return epoll_ctl(set, EPOLL_CTL_DEL, descriptor, &event) ? -errno : 0;
}

int kalsae_poll_wait(int set, uint64_t *tokens, int capacity, int64_t nanoseconds) {
  enum { most = 64 };
  struct epoll_event events[most];
  if (capacity > most) capacity = most;
  int count;
  static int no_pwait2;
  if (!__atomic_load_n(&no_pwait2, __ATOMIC_RELAXED)) {
    struct timespec time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    count = epoll_pwait2(set, events, capacity, nanoseconds < 0 ? NULL : &time, NULL);
    if (count < 0 && errno == ENOSYS) __atomic_store_n(&no_pwait2, 1, __ATOMIC_RELAXED);
  }
  if (__atomic_load_n(&no_pwait2, __ATOMIC_RELAXED)) {
    // Kernels before 5.11 know milliseconds only. Rounded up: a short wait is no busy loop.
    int64_t ms = nanoseconds < 0 ? -1 : (nanoseconds + 999999) / 1000000;
    count = epoll_wait(set, events, capacity, ms > INT32_MAX ? INT32_MAX : (int)ms);
  }
  if (count < 0) return errno == EINTR ? 0 : -errno;
  for (int i = 0; i < count; i++) tokens[i] = events[i].data.u64;
  return count;
}

int kalsae_poll_writable(int descriptor, int milliseconds) {
  struct pollfd entry = {.fd = descriptor, .events = POLLOUT};
  return poll(&entry, 1, milliseconds);
}

int kalsae_event_create(void) {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

void kalsae_event_signal(int descriptor) {
  uint64_t one = 1;
  ssize_t ignored = write(descriptor, &one, sizeof one);
  (void)ignored;
}

void kalsae_event_clear(int descriptor) {
  uint64_t value;
  ssize_t ignored = read(descriptor, &value, sizeof value);
  (void)ignored;
}

int kalsae_kernel_at_least(int major, int minor) {
  struct utsname name;
  int a = 0, b = 0;
  if (uname(&name) || sscanf(name.release, "%d.%d", &a, &b) != 2) return 0;
  return a > major || (a == major && b >= minor);
}

#define _GNU_SOURCE
#include "xdp_shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_xdp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(sizeof(struct kalsae_xdp_frame) == sizeof(struct xdp_desc), "struct xdp_desc");
_Static_assert(sizeof(struct kalsae_xdp_statistics) == sizeof(struct xdp_statistics), "struct xdp_statistics");

enum {
  // linux/if_xdp.h of 6.17 and later.
  max_transmit_budget = 9,
  send_buffer = 32 << 20,
};

static int set_int(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value);
}

static int map_ring(
    int fd, struct kalsae_xdp_ring *ring, uint32_t size, size_t entry, const struct xdp_ring_offset *at, off_t page) {
  size_t length = at->desc + size * entry;
  void *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);
  if (map == MAP_FAILED) return -1;
  *ring = (struct kalsae_xdp_ring){
      .producer = (uint32_t *)((char *)map + at->producer),
      .consumer = (uint32_t *)((char *)map + at->consumer),
      .flags = (uint32_t *)((char *)map + at->flags),
      .entries = (char *)map + at->desc,
      .size = size,
      .map = map,
      .map_size = length,
  };
  return 0;
}

int kalsae_xdp_open(const struct kalsae_xdp_options *o, struct kalsae_xdp *out, const char **step) {
  memset(out, 0, sizeof *out);
  *step = "open an AF_XDP socket";
  int fd = out->descriptor = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (o->shared < 0) {
    *step = "register the memory for AF_XDP";
    struct xdp_umem_reg memory = {
        .addr = (uintptr_t)o->memory, .len = o->memory_size, .chunk_size = o->chunk, .headroom = o->headroom};
    if (setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &memory, sizeof memory)) goto fail;
  }
  *step = "create the rings";
  if (set_int(fd, SOL_XDP, XDP_UMEM_FILL_RING, (int)o->receive_size) ||
      set_int(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, (int)o->transmit_size) ||
      set_int(fd, SOL_XDP, XDP_RX_RING, (int)o->receive_size) ||
      set_int(fd, SOL_XDP, XDP_TX_RING, (int)o->transmit_size))
    goto fail;
  struct xdp_mmap_offsets offsets;
  socklen_t length = sizeof offsets;
  if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &length)) goto fail;
  *step = "map the rings";
  if (map_ring(fd, &out->fill, o->receive_size, sizeof(uint64_t), &offsets.fr, (off_t)XDP_UMEM_PGOFF_FILL_RING) ||
      map_ring(
          fd, &out->completion, o->transmit_size, sizeof(uint64_t), &offsets.cr,
          (off_t)XDP_UMEM_PGOFF_COMPLETION_RING) ||
      map_ring(fd, &out->receive, o->receive_size, sizeof(struct xdp_desc), &offsets.rx, XDP_PGOFF_RX_RING) ||
      map_ring(fd, &out->transmit, o->transmit_size, sizeof(struct xdp_desc), &offsets.tx, XDP_PGOFF_TX_RING))
    goto fail;
  // What waits at the far side of a veth pair counts.
  if (set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, send_buffer)) (void)set_int(fd, SOL_SOCKET, SO_SNDBUF, send_buffer);
  // How many frames a system call sends; else 32.
  (void)set_int(fd, SOL_XDP, max_transmit_budget, (int)o->transmit_size);
  return 0;
fail:;
  int error = errno;
  kalsae_xdp_close(out);
  return -error;
}

int kalsae_xdp_bind(struct kalsae_xdp *out, const struct kalsae_xdp_options *o, const char **step) {
  *step = "bind the AF_XDP socket to the device";
  // What is shared has the mode of the one that it is shared with.
  struct sockaddr_xdp address = {
      .sxdp_family = AF_XDP,
      .sxdp_flags = o->shared < 0 ? XDP_USE_NEED_WAKEUP : XDP_SHARED_UMEM,
      .sxdp_ifindex = (uint32_t)o->ifindex,
      .sxdp_queue_id = o->queue,
      .sxdp_shared_umem_fd = o->shared < 0 ? 0 : (uint32_t)o->shared,
  };
  if (bind(out->descriptor, (struct sockaddr *)&address, sizeof address)) return -errno;
  struct xdp_options options = {0};
  socklen_t length = sizeof options;
  if (!getsockopt(out->descriptor, SOL_XDP, XDP_OPTIONS, &options, &length))
    out->is_zero_copy = (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
  return 0;
}

void kalsae_xdp_close(struct kalsae_xdp *socket) {
  struct kalsae_xdp_ring *rings[] = {&socket->fill, &socket->completion, &socket->receive, &socket->transmit};
  for (int i = 0; i < 4; i++) {
    if (rings[i]->map) munmap(rings[i]->map, rings[i]->map_size);
    rings[i]->map = NULL;
  }
  if (socket->descriptor >= 0) close(socket->descriptor);
  socket->descriptor = -1;
}

int kalsae_xdp_prefer_polling(int fd, int microseconds, int budget) {
  if (set_int(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, 1) || set_int(fd, SOL_SOCKET, SO_BUSY_POLL, microseconds) ||
      set_int(fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, budget))
    return -errno;
  return 0;
}

/// The devices of the calling thread's network namespace in sysfs, wherever, and whichever's, the mounted one is.
static int open_devices(void) {
  int result = -1, context = (int)syscall(SYS_fsopen, "sysfs", 1);
  if (context < 0) return -1;
  int mount = -1;
  if (!syscall(SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0))
    mount = (int)syscall(SYS_fsmount, context, 1, 0);
  if (mount >= 0) {
    result = openat(mount, "class/net", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    int error = errno;
    close(mount);
    errno = error;
  }
  int error = errno;
  close(context);
  errno = error;
  return result;
}

static int exchange(int folder, const char *device, const char *name, uint64_t value, uint64_t *before) {
  char path[64], text[32];
  snprintf(path, sizeof path, "%s/%s", device, name);
  int fd = openat(folder, path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t count = read(fd, text, sizeof text - 1);
  text[count > 0 ? count : 0] = 0;
  *before = strtoull(text, NULL, 10);
  int result = kalsae_xdp_set_timeout(fd, value);
  close(fd);
  errno = -result;
  return result ? -1 : 0;
}

int kalsae_xdp_set_timeout(int fd, uint64_t value) {
  char text[32];
  int length = snprintf(text, sizeof text, "%llu", (unsigned long long)value);
  return pwrite(fd, text, (size_t)length, 0) == length ? 0 : -errno;
}

int kalsae_xdp_open_timeout(const char *device) {
  int folder = open_devices();
  if (folder < 0) return -errno;
  char path[64];
  snprintf(path, sizeof path, "%s/gro_flush_timeout", device);
  int fd = openat(folder, path, O_WRONLY | O_CLOEXEC);
  int error = errno;
  close(folder);
  return fd < 0 ? -error : fd;
}

int kalsae_xdp_moderate(
    const char *device, struct kalsae_xdp_moderation moderation, struct kalsae_xdp_moderation *before) {
  int folder = open_devices();
  if (folder < 0) return -errno;
  int result = 0;
  if (exchange(folder, device, "gro_flush_timeout", moderation.timeout, &before->timeout) ||
      exchange(folder, device, "napi_defer_hard_irqs", moderation.deferrals, &before->deferrals))
    result = -errno;
  close(folder);
  return result;
}

uint32_t kalsae_xdp_queues(const char *device, uint32_t *transmit) {
  *transmit = 1;
  int folder = open_devices();
  if (folder < 0) return 1;
  char path[64];
  snprintf(path, sizeof path, "%s/queues", device);
  int fd = openat(folder, path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  close(folder);
  DIR *queues = fd < 0 ? NULL : fdopendir(fd);
  if (!queues) {
    if (fd >= 0) close(fd);
    return 1;
  }
  uint32_t received = 0, sent = 0;
  for (struct dirent *entry; (entry = readdir(queues));) {
    received += !strncmp(entry->d_name, "rx-", 3);
    sent += !strncmp(entry->d_name, "tx-", 3);
  }
  closedir(queues);
  if (sent) *transmit = sent;
  return received ? received : 1;
}

int kalsae_xdp_raise_queues(const char *device, uint32_t count) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
  struct ifreq request = {.ifr_data = (char *)&channels};
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
  int result = ioctl(fd, SIOCETHTOOL, &request) ? -errno : 0;
  if (!result && (channels.rx_count < count || channels.tx_count < count)) {
    if (channels.max_rx < count || channels.max_tx < count) {
      result = -ERANGE;
    } else {
      channels.cmd = ETHTOOL_SCHANNELS;
      if (channels.rx_count < count) channels.rx_count = count;
      if (channels.tx_count < count) channels.tx_count = count;
      if (ioctl(fd, SIOCETHTOOL, &request)) result = -errno;
    }
  }
  close(fd);
  return result;
}

int kalsae_xdp_drive(int fd) { return recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 ? -errno : 0; }

int kalsae_xdp_send(int fd) { return sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? -errno : 0; }

int kalsae_xdp_count(int fd, struct kalsae_xdp_statistics *out) {
  socklen_t length = sizeof *out;
  memset(out, 0, sizeof *out);
  return getsockopt(fd, SOL_XDP, XDP_STATISTICS, out, &length) ? -errno : 0;
}

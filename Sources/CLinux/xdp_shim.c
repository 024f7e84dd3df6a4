#define _GNU_SOURCE
#include "xdp_shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_xdp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

uint32_t kalsae_xdp_queues(const char *device) {
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
  uint32_t count = 0;
  for (struct dirent *entry; (entry = readdir(queues));) count += !strncmp(entry->d_name, "rx-", 3);
  closedir(queues);
  return count ? count : 1;
}

int kalsae_xdp_drive(int fd) { return recvfrom(fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 ? -errno : 0; }

int kalsae_xdp_send(int fd) { return sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? -errno : 0; }

int kalsae_xdp_count(int fd, struct kalsae_xdp_statistics *out) {
  socklen_t length = sizeof *out;
  memset(out, 0, sizeof *out);
  return getsockopt(fd, SOL_XDP, XDP_STATISTICS, out, &length) ? -errno : 0;
}

// MARK: Checksums

/// The ones' complement sum of octets, in the machine's order; at most 64 KiB.
static uint64_t sum(const uint8_t *octets, uint32_t length) {
  uint64_t total = 0;
  for (; length >= 4; octets += 4, length -= 4) {
    uint32_t word;
    memcpy(&word, octets, 4);
    total += word;
  }
  uint32_t rest = 0;
  memcpy(&rest, octets, length);
  return total + rest;
}

static uint16_t fold(uint64_t total) {
  total = (total & 0xffffffff) + (total >> 32);
  total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
  total = (total & 0xffff) + (total >> 16);
  return (uint16_t)((total & 0xffff) + (total >> 16));
}

static uint16_t word(const uint8_t *octets) { return (uint16_t)(octets[0] << 8 | octets[1]); }

static uint32_t crc32c(const uint8_t *octets, uint32_t length) {
  uint32_t crc = ~0u;
  for (uint32_t i = 0; i < length; i++) {
    crc ^= octets[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc;
}

static int finish_transport(uint8_t protocol, uint64_t addresses, uint8_t *transport, uint32_t length) {
  uint32_t field = protocol == 6 ? 16 : protocol == 17 ? 6 : 8;
  if (length < (protocol == 6 ? 20 : protocol == 17 ? 8 : 12)) return 0;
  if (protocol == 132) {
    uint32_t crc = 0;
    if (memcmp(transport + field, &crc, 4)) return 0;
    // RFC 9260, appendix A: least significant octet first.
    crc = crc32c(transport, length);
    memcpy(transport + field, &crc, 4);
    return 1;
  }
  uint8_t pseudo[4] = {0, protocol, (uint8_t)(length >> 8), (uint8_t)length};
  uint16_t found, partial = fold(addresses + sum(pseudo, 4));
  memcpy(&found, transport + field, 2);
  if (found != partial) return 0;
  uint16_t finished = (uint16_t)~fold(sum(transport, length));
  if (protocol == 17 && !finished) finished = 0xffff;
  memcpy(transport + field, &finished, 2);
  return 1;
}

static int finish_packet(uint16_t type, uint8_t *packet, uint32_t length, int depth);

static int finish_frame(uint8_t *frame, uint32_t length, int depth) {
  if (length < 14) return 0;
  uint32_t at = 12;
  uint16_t type = word(frame + at);
  while ((type == 0x8100 || type == 0x88a8) && at + 6 <= length) type = word(frame + (at += 4));
  return finish_packet(type, frame + at + 2, length - at - 2, depth);
}

/// What an unfinished checksum can be behind: VXLAN (RFC 7348), Geneve (RFC 8926) by their usual ports, GRE (RFC 2784).
static int finish_inside(uint8_t protocol, uint8_t *outer, uint32_t length, int depth) {
  if (depth == 0) return 0;
  if (protocol == 4) return finish_packet(0x0800, outer, length, depth - 1);
  if (protocol == 41) return finish_packet(0x86dd, outer, length, depth - 1);
  if (protocol == 17 && length >= 16) {
    uint16_t port = word(outer + 2);
    uint32_t at = 16;
    if (port == 6081) {
      at += (uint32_t)(outer[8] & 0x3f) * 4;
      if (at > length) return 0;
      uint16_t inner = word(outer + 10);
      return inner == 0x6558 ? finish_frame(outer + at, length - at, depth - 1)
                             : finish_packet(inner, outer + at, length - at, depth - 1);
    }
    return port == 4789 || port == 8472 ? finish_frame(outer + at, length - at, depth - 1) : 0;
  }
  if (protocol == 47 && length >= 4) {
    uint32_t at = 4 + (outer[0] & 0x80 ? 4 : 0) + (outer[0] & 0x20 ? 4 : 0) + (outer[0] & 0x10 ? 4 : 0);
    if (at > length) return 0;
    uint16_t inner = word(outer + 2);
    return inner == 0x6558 ? finish_frame(outer + at, length - at, depth - 1)
                           : finish_packet(inner, outer + at, length - at, depth - 1);
  }
  return 0;
}

static int finish_packet(uint16_t type, uint8_t *packet, uint32_t length, int depth) {
  uint8_t protocol;
  uint32_t head, total;
  uint64_t addresses;
  if (type == 0x0800) {
    if (length < 20) return 0;
    head = (uint32_t)(packet[0] & 15) * 4;
    total = word(packet + 2);
    // Of a fragment nobody leaves the checksum unfinished.
    if (head < 20 || total < head || total > length || word(packet + 6) & 0x3fff) return 0;
    protocol = packet[9];
    addresses = sum(packet + 12, 8);
  } else if (type == 0x86dd) {
    if (length < 40) return 0;
    head = 40;
    total = 40u + word(packet + 4);
    if (total > length) return 0;
    protocol = packet[6];
    addresses = sum(packet + 8, 32);
    // Hop-by-hop, routing and destination options.
    while ((protocol == 0 || protocol == 43 || protocol == 60) && head + 8 <= total) {
      protocol = packet[head];
      head += (packet[head + 1] + 1u) * 8;
    }
    if (head > total) return 0;
  } else {
    return 0;
  }
  if (protocol == 6 || protocol == 17 || protocol == 132) {
    if (finish_transport(protocol, addresses, packet + head, total - head)) return 1;
  }
  return finish_inside(protocol, packet + head, total - head, depth);
}

int kalsae_xdp_finish_checksum(uint8_t *frame, uint32_t length) { return finish_frame(frame, length, 1); }

#define _GNU_SOURCE
#include "bpf_shim.h"
#include "ports_shim.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <unistd.h>

// MARK: What is said

static __thread char *log_text;
static __thread size_t log_length, log_capacity;

static int take_log(enum libbpf_print_level level, const char *format, va_list arguments) {
  if (level == LIBBPF_DEBUG) return 0;
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, again);
  va_end(again);
  // A verifier's log may be very long; its end is what matters, but the beginning must not push it out of memory.
  if (length <= 0 || (size_t)length > (64u << 20)) return 0;
  if (log_length + (size_t)length + 1 > log_capacity) {
    size_t capacity = (log_length + (size_t)length + 1) * 2;
    char *bigger = realloc(log_text, capacity);
    if (!bigger) return 0;
    log_text = bigger;
    log_capacity = capacity;
  }
  vsnprintf(log_text + log_length, (size_t)length + 1, format, arguments);
  log_length += (size_t)length;
  return length;
}

void kalsae_bpf_log_clear(void) {
  log_length = 0;
  if (log_text) log_text[0] = 0;
  libbpf_set_print(take_log);
}

const char *kalsae_bpf_log(void) { return log_text ? log_text : ""; }

// MARK: Objects

int kalsae_bpf_open(const void *bytes, size_t length, const char *name, kalsae_bpf_object *out) {
  libbpf_set_print(take_log);
  DECLARE_LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
  struct bpf_object *object = bpf_object__open_mem(bytes, length, &options);
  if (!object) return -errno;
  *out = object;
  return 0;
}

void kalsae_bpf_close(kalsae_bpf_object object) { bpf_object__close(object); }

int kalsae_bpf_load(kalsae_bpf_object object) { return bpf_object__load(object); }

int kalsae_bpf_map_resize(kalsae_bpf_object object, const char *map, uint32_t entries) {
  struct bpf_map *found = bpf_object__find_map_by_name(object, map);
  return found ? bpf_map__set_max_entries(found, entries) : -ENOENT;
}

int kalsae_bpf_map_reuse(kalsae_bpf_object object, const char *map, int fd) {
  struct bpf_map *found = bpf_object__find_map_by_name(object, map);
  return found ? bpf_map__reuse_fd(found, fd) : -ENOENT;
}

int kalsae_bpf_constant(kalsae_bpf_object object, size_t offset, uint8_t value) {
  struct bpf_map *map;
  bpf_object__for_each_map(map, object) {
    const char *name = bpf_map__name(map);
    size_t length = strlen(name);
    if (length < 7 || strcmp(name + length - 7, ".rodata")) continue;
    size_t size = 0;
    const uint8_t *old = bpf_map__initial_value(map, &size);
    if (!old || offset >= size) return -ERANGE;
    uint8_t *copy = malloc(size);
    if (!copy) return -ENOMEM;
    memcpy(copy, old, size);
    copy[offset] = value;
    int error = bpf_map__set_initial_value(map, copy, size);
    free(copy);
    return error;
  }
  return -ENOENT;
}

int kalsae_bpf_program_disable(kalsae_bpf_object object, const char *program) {
  struct bpf_program *found = bpf_object__find_program_by_name(object, program);
  return found ? bpf_program__set_autoload(found, false) : -ENOENT;
}

int kalsae_bpf_map_fd(kalsae_bpf_object object, const char *map) {
  struct bpf_map *found = bpf_object__find_map_by_name(object, map);
  return found ? bpf_map__fd(found) : -ENOENT;
}

int kalsae_bpf_program_fd(kalsae_bpf_object object, const char *program) {
  struct bpf_program *found = bpf_object__find_program_by_name(object, program);
  return found ? bpf_program__fd(found) : -ENOENT;
}

// MARK: Maps

int kalsae_bpf_map_sizes(int fd, uint32_t *key, uint32_t *value, uint32_t *entries) {
  struct bpf_map_info info = {};
  uint32_t length = sizeof info;
  int error = bpf_obj_get_info_by_fd(fd, &info, &length);
  if (error) return error;
  *key = info.key_size;
  *value = info.value_size;
  *entries = info.max_entries;
  return 0;
}

int kalsae_bpf_update(int map, const void *key, const void *value) { return bpf_map_update_elem(map, key, value, 0); }
int kalsae_bpf_delete(int map, const void *key) { return bpf_map_delete_elem(map, key); }
int kalsae_bpf_lookup(int map, const void *key, void *value) { return bpf_map_lookup_elem(map, key, value); }
int kalsae_bpf_next_key(int map, const void *key, void *next) { return bpf_map_get_next_key(map, key, next); }

uint64_t kalsae_bpf_lookup_sum(int map, uint32_t key) {
  int processors = libbpf_num_possible_cpus();
  if (processors <= 0) return 0;
  uint64_t *values = calloc((size_t)processors, sizeof *values), sum = 0;
  if (values && !bpf_map_lookup_elem(map, &key, values))
    for (int i = 0; i < processors; i++) sum += values[i];
  free(values);
  return sum;
}

/// Batches are not known to this kernel, or not to this kind of map.
static int is_unknown(int error) { return error == -EINVAL || error == -524 /* ENOTSUPP */ || error == -EOPNOTSUPP; }

int kalsae_bpf_update_batch(
    int map, const void *keys, const void *values, uint32_t count, uint32_t key, uint32_t value) {
  uint32_t done = count;
  int error = bpf_map_update_batch(map, keys, values, &done, NULL);
  if (!error) return 0;
  if (!is_unknown(error)) return error;
  for (uint32_t i = 0; i < count; i++) {
    error = bpf_map_update_elem(map, (const char *)keys + (size_t)i * key, (const char *)values + (size_t)i * value, 0);
    if (error) return error;
  }
  return 0;
}

int kalsae_bpf_delete_batch(int map, const void *keys, uint32_t count, uint32_t key) {
  // One by one: a batch ends at the first key that is not there.
  for (uint32_t i = 0; i < count; i++) {
    int error = bpf_map_delete_elem(map, (const char *)keys + (size_t)i * key);
    if (error && error != -ENOENT) return error;
  }
  return 0;
}

int kalsae_bpf_wait_for_programs(void) {
  // A change of a map of maps returns only after all programs that may use the old one (bpf(2), since Linux 4.20).
  int inner = bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 4, 1, NULL);
  if (inner < 0) return inner;
  DECLARE_LIBBPF_OPTS(bpf_map_create_opts, options, .inner_map_fd = (uint32_t)inner);
  int outer = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, NULL, 4, 4, 1, &options);
  int error = outer < 0 ? outer : 0;
  if (!error) {
    uint32_t zero = 0;
    error = bpf_map_update_elem(outer, &zero, &inner, 0);
    close(outer);
  }
  close(inner);
  return error;
}

// MARK: The file system

int kalsae_bpf_pin(int fd, const char *path) { return bpf_obj_pin(fd, path); }
int kalsae_bpf_get_pinned(const char *path) { return bpf_obj_get(path); }
int kalsae_bpf_mount(const char *path) { return mount("bpf", path, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") ? -errno : 0; }
int kalsae_bpf_unmount(const char *path) { return umount2(path, MNT_DETACH) ? -errno : 0; }

int kalsae_bpf_is_mounted(const char *path) {
  struct statfs status;
  return !statfs(path, &status) && status.f_type == BPF_FS_MAGIC;
}

bool kalsae_is_cgroup2(const char *path) {
  struct statfs status;
  return !statfs(path, &status) && status.f_type == CGROUP2_SUPER_MAGIC;
}

int kalsae_open_folder(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

// MARK: Control groups

static const struct {
  enum bpf_prog_type type;
  enum bpf_attach_type attach;
} hooks[] = {
    [KALSAE_HOOK_CONNECT4] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT},
    [KALSAE_HOOK_CONNECT6] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT},
    [KALSAE_HOOK_SENDMSG4] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_SENDMSG},
    [KALSAE_HOOK_SENDMSG6] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP6_SENDMSG},
    [KALSAE_HOOK_RECVMSG4] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_RECVMSG},
    [KALSAE_HOOK_RECVMSG6] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP6_RECVMSG},
    [KALSAE_HOOK_GETPEERNAME4] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_GETPEERNAME},
    [KALSAE_HOOK_GETPEERNAME6] = {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_GETPEERNAME},
    [KALSAE_HOOK_POST_BIND4] = {BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET4_POST_BIND},
    [KALSAE_HOOK_POST_BIND6] = {BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET6_POST_BIND},
};

static int hook_is_known(int hook) { return hook >= 0 && (size_t)hook < sizeof hooks / sizeof *hooks; }

int kalsae_bpf_probe_hook(int hook) {
  if (!hook_is_known(hook)) return -EINVAL;
  // r0 = 1; exit
  const struct bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1}, {.code = BPF_JMP | BPF_EXIT}};
  DECLARE_LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = hooks[hook].attach);
  int fd = bpf_prog_load(hooks[hook].type, "kalsae_probe", "GPL", program, 2, &options);
  if (fd < 0) return fd;
  close(fd);
  return 0;
}

int kalsae_bpf_probe_set_retval(void) {
  // r1 = -111; call bpf_set_retval; r0 = 0; exit
  const struct bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_1, .imm = -111},
      {.code = BPF_JMP | BPF_CALL, .imm = 187 /* BPF_FUNC_set_retval */},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0},
      {.code = BPF_JMP | BPF_EXIT}};
  DECLARE_LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET4_CONNECT);
  int fd = bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "kalsae_probe", "GPL", program, 4, &options);
  if (fd < 0) return 0;
  close(fd);
  return 1;
}

int kalsae_bpf_attach_cgroup(int program, int cgroup, int hook) {
  if (!hook_is_known(hook)) return -EINVAL;
  return bpf_link_create(program, cgroup, hooks[hook].attach, NULL);
}

int kalsae_bpf_link_update(int link, int program) { return bpf_link_update(link, program, NULL); }
int kalsae_bpf_link_detach(int link) { return bpf_link_detach(link); }

// MARK: Network namespaces

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

struct cookie {
  uint64_t value;
  int error;
};

static void find_cookie(void *argument) {
  struct cookie *cookie = argument;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  socklen_t length = sizeof cookie->value;
  if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie->value, &length)) cookie->error = -errno;
  if (fd >= 0) close(fd);
}

int kalsae_netns_cookie(const char *path, uint64_t *out) {
  struct cookie cookie = {};
  int error = 0;
  if (path) {
    error = kalsae_in_namespace(path, find_cookie, &cookie);
  } else {
    find_cookie(&cookie);
  }
  *out = cookie.value;
  return error ? error : cookie.error;
}

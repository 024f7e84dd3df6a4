#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Functions that return int give a negated errno on failure.

/// An object file that is open; owned by the caller.
typedef struct bpf_object *kalsae_bpf_object;

/// Forgets what libbpf and the verifier have said on this thread.
void kalsae_bpf_log_clear(void);
/// What libbpf and the verifier have said on this thread since then; valid until the next call of any of these.
const char *kalsae_bpf_log(void);

int kalsae_bpf_open(const void *bytes, size_t length, const char *name, kalsae_bpf_object *out);
void kalsae_bpf_close(kalsae_bpf_object object);
int kalsae_bpf_load(kalsae_bpf_object object);
/// Sets how many entries a map has. -ENOENT where the object has no such map.
int kalsae_bpf_map_resize(kalsae_bpf_object object, const char *map, uint32_t entries);
/// Has the object use a map that is there already.
int kalsae_bpf_map_reuse(kalsae_bpf_object object, const char *map, int fd);
/// Sets an octet of the object's constants.
int kalsae_bpf_constant(kalsae_bpf_object object, size_t offset, uint8_t value);
int kalsae_bpf_program_disable(kalsae_bpf_object object, const char *program);
/// A file descriptor that the object owns.
int kalsae_bpf_map_fd(kalsae_bpf_object object, const char *map);
int kalsae_bpf_program_fd(kalsae_bpf_object object, const char *program);

/// Key and value size of a map, and how many entries it may have.
int kalsae_bpf_map_sizes(int fd, uint32_t *key, uint32_t *value, uint32_t *entries);
int kalsae_bpf_update(int map, const void *key, const void *value);
int kalsae_bpf_delete(int map, const void *key);
int kalsae_bpf_lookup(int map, const void *key, void *value);
/// The sum over all processors of a number in a map that has one for each; 0 where there is none.
uint64_t kalsae_bpf_lookup_sum(int map, uint32_t key);
/// `key` NULL: the first.
int kalsae_bpf_next_key(int map, const void *key, void *next);
/// Writes `count` entries that lie one after another; falls back to one by one where the kernel knows no batches.
int kalsae_bpf_update_batch(int map, const void *keys, const void *values, uint32_t count, uint32_t key, uint32_t value);
int kalsae_bpf_delete_batch(int map, const void *keys, uint32_t count, uint32_t key);
/// Returns when every program that was running at the call has ended.
int kalsae_bpf_wait_for_programs(void);

/// Takes what lies in a ring of records of `size` octets: of more than `limit` the last. Returns how many there are.
int kalsae_bpf_ring_take(int ring, void *out, size_t size, uint32_t limit);

int kalsae_bpf_pin(int fd, const char *path);
int kalsae_bpf_get_pinned(const char *path);
/// Mounts a BPF file system at a folder.
int kalsae_bpf_mount(const char *path);
int kalsae_bpf_unmount(const char *path);
/// Whether a folder lies on a BPF file system: 1 or 0.
int kalsae_bpf_is_mounted(const char *path);
bool kalsae_is_cgroup2(const char *path);
/// Opens a folder for reading.
int kalsae_open_folder(const char *path);

/// The kinds of control group hooks.
enum kalsae_bpf_hook {
  KALSAE_HOOK_CONNECT4,
  KALSAE_HOOK_CONNECT6,
  KALSAE_HOOK_SENDMSG4,
  KALSAE_HOOK_SENDMSG6,
  KALSAE_HOOK_RECVMSG4,
  KALSAE_HOOK_RECVMSG6,
  KALSAE_HOOK_GETPEERNAME4,
  KALSAE_HOOK_GETPEERNAME6,
  KALSAE_HOOK_POST_BIND4,
  KALSAE_HOOK_POST_BIND6,
};
/// Whether the kernel loads a program for a hook: 0, or why not.
int kalsae_bpf_probe_hook(int hook);
/// Whether programs at control groups may say what a system call returns (Linux 5.18): 1 or 0.
int kalsae_bpf_probe_set_retval(void);
/// Attaches a program by a link; returns its descriptor.
int kalsae_bpf_attach_cgroup(int program, int cgroup, int hook);
/// Puts another program in place of the one that a link has, at once.
int kalsae_bpf_link_update(int link, int program);
int kalsae_bpf_link_detach(int link);

/// Whether programs for devices can be loaded: 0, or why not.
int kalsae_bpf_probe_devices(void);
/// Whether programs can be attached to devices by links (tcx, Linux 6.6): 0, or why not.
int kalsae_bpf_probe_tcx(void);
/// Attaches a program to a device's ingress or egress by a link, in front of all others or behind them; returns its
/// descriptor.
int kalsae_bpf_attach_device(int program, int ifindex, bool egress, bool is_first);

/// Handles of filters of traffic control: each says whether the device's queueing discipline for filters (clsact) came with
/// one of ours, and so goes with the last. `IngressGuard` has the same.
enum { KALSAE_FILTER_MADE = 0x6b61, KALSAE_FILTER_FOUND = 0x6b62 };
/// Attaches a program to a device of the caller's network namespace as a filter of traffic control, or puts it in the place
/// of ours with that preference: for kernels without tcx. It stays until it is detached, or the device goes.
int kalsae_bpf_attach_filter(int program, int ifindex, bool egress, uint32_t preference);
/// Takes it from a device of the network namespace at `path`; and the queueing discipline, if it came with one of ours and
/// nobody else has a filter there.
int kalsae_bpf_detach_filter(const char *path, int ifindex, bool egress, uint32_t preference);
/// Puts a program in the place of a socket's filter.
int kalsae_bpf_attach_socket(int program, int socket);
/// Maps the values of an array that was made for it (BPF_F_MMAPABLE) into memory.
int kalsae_bpf_map_memory(int map, size_t size, void **out);
/// Loads a program for sockets that does what a classic one does: `count` times `struct sock_filter`. Returns its
/// descriptor; -EINVAL where it has an instruction that is not known here.
int kalsae_bpf_load_classic(const void *instructions, size_t count);
/// Runs a program on a frame as if it were at a device, and had come to the node by device `ingress`. `frame` has room for `*capacity` octets and gets what the
/// program made of it. Returns what the program did; `nanoseconds` of each of `repeat` runs.
int kalsae_bpf_run(
    int program, int ifindex, int ingress, uint32_t segment, void *frame, uint32_t length, uint32_t *capacity, uint32_t repeat,
    uint32_t *verdict, uint32_t *nanoseconds);

/// Attaches a program to a device by a link, before the kernel makes its own of a packet: in the driver, or where that
/// cannot in front of the kernel's stack (`is_generic`). Returns the link's descriptor.
int kalsae_bpf_attach_xdp(int program, int ifindex, bool *is_generic);
/// Whether programs for that can be loaded: 0, or why not.
int kalsae_bpf_probe_xdp(void);
/// Puts a socket into a map of sockets, from which it goes when its descriptor, which is returned, is closed, or its
/// process ends.
int kalsae_bpf_hold(int map);
/// As `kalsae_bpf_run`, for programs that see a packet before the kernel has made its own of it.
int kalsae_bpf_run_xdp(
    int program, void *frame, uint32_t length, uint32_t *capacity, uint32_t repeat, uint32_t *verdict,
    uint32_t *nanoseconds);

/// The cookie of a network namespace; `path` NULL: the caller's.
int kalsae_netns_cookie(const char *path, uint64_t *cookie);

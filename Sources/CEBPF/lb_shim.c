#define _GNU_SOURCE
#include "bpf_shim.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int kalsae_bpf_attach_xdp(int program, int ifindex, bool *is_generic) {
  DECLARE_LIBBPF_OPTS(bpf_link_create_opts, options, .flags = XDP_FLAGS_DRV_MODE);
  int link = bpf_link_create(program, ifindex, BPF_XDP, &options);
  *is_generic = link < 0 && link != -EBUSY;
  if (!*is_generic) return link;
  options.flags = XDP_FLAGS_SKB_MODE;
  return bpf_link_create(program, ifindex, BPF_XDP, &options);
}

int kalsae_bpf_probe_xdp(void) {
  // r0 = XDP_PASS; exit
  const struct bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS}, {.code = BPF_JMP | BPF_EXIT}};
  int fd = bpf_prog_load(BPF_PROG_TYPE_XDP, "kalsae_probe", "GPL", program, 2, NULL);
  if (fd < 0) return fd;
  close(fd);
  return 0;
}

int kalsae_bpf_hold(int map) {
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  uint32_t zero = 0;
  uint64_t value = (uint64_t)fd;
  int error = bpf_map_update_elem(map, &zero, &value, 0);
  if (!error) return fd;
  close(fd);
  return error;
}

int kalsae_bpf_run_xdp(
    int program, void *frame, uint32_t length, uint32_t *capacity, uint32_t repeat, uint32_t *verdict,
    uint32_t *nanoseconds) {
  void *out = malloc(*capacity);
  if (!out) return -ENOMEM;
  DECLARE_LIBBPF_OPTS(
      bpf_test_run_opts, options, .data_in = frame, .data_size_in = length, .data_out = out, .data_size_out = *capacity,
      .repeat = (int)repeat);
  int error = bpf_prog_test_run_opts(program, &options);
  if (!error) {
    memcpy(frame, out, options.data_size_out);
    *capacity = options.data_size_out;
    *verdict = options.retval;
    *nanoseconds = options.duration;
  }
  free(out);
  return error;
}

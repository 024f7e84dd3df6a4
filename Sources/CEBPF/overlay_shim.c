#define _GNU_SOURCE
#include "bpf_shim.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/filter.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

// linux/bpf.h of 6.6 and later.
enum { tcx_ingress = 46, tcx_egress = 47, before = 1 << 3 /* BPF_F_BEFORE */ };

int kalsae_bpf_attach_device(int program, int ifindex, bool egress, bool is_first) {
  DECLARE_LIBBPF_OPTS(bpf_link_create_opts, options, .flags = is_first ? before : 0);
  return bpf_link_create(program, ifindex, (enum bpf_attach_type)(egress ? tcx_egress : tcx_ingress), &options);
}

/// Loads a program that does nothing.
static int load_probe(void) {
  // r0 = TCX_NEXT; exit
  const struct bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = -1}, {.code = BPF_JMP | BPF_EXIT}};
  return bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "kalsae_probe", "GPL", program, 2, NULL);
}

int kalsae_bpf_probe_devices(void) {
  int fd = load_probe();
  if (fd < 0) return fd;
  close(fd);
  return 0;
}

int kalsae_bpf_probe_tcx(void) {
  int fd = load_probe();
  if (fd < 0) return fd;
  unsigned loopback = if_nametoindex("lo");
  int link = loopback ? kalsae_bpf_attach_device(fd, (int)loopback, false, false) : -ENODEV;
  close(fd);
  if (link < 0) return link;
  close(link);
  return 0;
}

int kalsae_bpf_attach_socket(int program, int socket) {
  return setsockopt(socket, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program) ? -errno : 0;
}

int kalsae_bpf_map_memory(int map, size_t size, void **out) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  if (memory == MAP_FAILED) return -errno;
  *out = memory;
  return 0;
}

int kalsae_bpf_run(
    int program, int ifindex, int ingress, uint32_t segment, void *frame, uint32_t length, uint32_t *capacity, uint32_t repeat,
    uint32_t *verdict, uint32_t *nanoseconds) {
  struct __sk_buff context = {
      .ifindex = (uint32_t)ifindex, .ingress_ifindex = (uint32_t)ingress, .gso_size = segment};
  void *out = malloc(*capacity);
  if (!out) return -ENOMEM;
  DECLARE_LIBBPF_OPTS(
      bpf_test_run_opts, options, .data_in = frame, .data_size_in = length, .data_out = out, .data_size_out = *capacity,
      .ctx_in = &context, .ctx_size_in = sizeof context, .repeat = (int)repeat);
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

// MARK: Classic programs

// A classic program's registers, by the kernel's own convention: A is r7, X is r8, M is on the stack. Loads from the
// packet want the context in r6 and give their result in r0.
enum { a = BPF_REG_7, x = BPF_REG_8, words = 16 };

struct translation {
  struct bpf_insn *out;
  size_t length;
};

static void emit(struct translation *t, uint8_t code, uint8_t dst, uint8_t src, int16_t offset, int32_t imm) {
  t->out[t->length++] = (struct bpf_insn){.code = code, .dst_reg = dst, .src_reg = src, .off = offset, .imm = imm};
}

static int16_t slot(uint32_t k) { return (int16_t)(-4 * (int)words + 4 * (int)k); }

/// One instruction becomes up to four. Jumps are written with the number of the classic instruction that they lead to.
static int translate(struct translation *t, const struct sock_filter *i, size_t number) {
  int32_t k = (int32_t)i->k;
  switch (i->code) {
  case BPF_LD | BPF_W | BPF_ABS:
    if (k >= SKF_AD_OFF && k < 0) {
      // What the kernel knows of the packet: its VLAN tag is all that is asked for.
      if (k != SKF_AD_OFF + SKF_AD_VLAN_TAG) return -EINVAL;
      emit(t, BPF_LDX | BPF_MEM | BPF_W, a, BPF_REG_6, offsetof(struct __sk_buff, vlan_tci), 0);
      return 0;
    }
    __attribute__((fallthrough));
  case BPF_LD | BPF_H | BPF_ABS:
  case BPF_LD | BPF_B | BPF_ABS:
    emit(t, (uint8_t)i->code, 0, 0, 0, k);
    emit(t, BPF_ALU64 | BPF_MOV | BPF_X, a, BPF_REG_0, 0, 0);
    return 0;
  case BPF_LD | BPF_W | BPF_IND:
  case BPF_LD | BPF_H | BPF_IND:
  case BPF_LD | BPF_B | BPF_IND:
    emit(t, (uint8_t)i->code, 0, x, 0, k);
    emit(t, BPF_ALU64 | BPF_MOV | BPF_X, a, BPF_REG_0, 0, 0);
    return 0;
  case BPF_LD | BPF_W | BPF_LEN: emit(t, BPF_LDX | BPF_MEM | BPF_W, a, BPF_REG_6, offsetof(struct __sk_buff, len), 0); return 0;
  case BPF_LD | BPF_IMM: emit(t, BPF_ALU | BPF_MOV | BPF_K, a, 0, 0, k); return 0;
  case BPF_LDX | BPF_IMM: emit(t, BPF_ALU | BPF_MOV | BPF_K, x, 0, 0, k); return 0;
  case BPF_LDX | BPF_B | BPF_MSH:
    emit(t, BPF_LD | BPF_B | BPF_ABS, 0, 0, 0, k);
    emit(t, BPF_ALU | BPF_AND | BPF_K, BPF_REG_0, 0, 0, 15);
    emit(t, BPF_ALU | BPF_LSH | BPF_K, BPF_REG_0, 0, 0, 2);
    emit(t, BPF_ALU64 | BPF_MOV | BPF_X, x, BPF_REG_0, 0, 0);
    return 0;
  case BPF_LD | BPF_MEM:
  case BPF_LDX | BPF_MEM:
    if (i->k >= words) return -EINVAL;
    emit(t, BPF_LDX | BPF_MEM | BPF_W, BPF_CLASS(i->code) == BPF_LD ? a : x, BPF_REG_10, slot(i->k), 0);
    return 0;
  case BPF_ST:
  case BPF_STX:
    if (i->k >= words) return -EINVAL;
    emit(t, BPF_STX | BPF_MEM | BPF_W, BPF_REG_10, i->code == BPF_ST ? a : x, slot(i->k), 0);
    return 0;
  case BPF_ALU | BPF_AND | BPF_K:
  case BPF_ALU | BPF_ADD | BPF_K:
  case BPF_ALU | BPF_MUL | BPF_K: emit(t, (uint8_t)i->code, a, 0, 0, k); return 0;
  case BPF_MISC | BPF_TAX: emit(t, BPF_ALU64 | BPF_MOV | BPF_X, x, a, 0, 0); return 0;
  case BPF_MISC | BPF_TXA: emit(t, BPF_ALU64 | BPF_MOV | BPF_X, a, x, 0, 0); return 0;
  case BPF_JMP | BPF_JA: emit(t, BPF_JMP | BPF_JA, 0, 0, 0, (int32_t)(number + 1 + i->k)); return 0;
  case BPF_JMP | BPF_JEQ | BPF_K:
  case BPF_JMP | BPF_JGT | BPF_K:
  case BPF_JMP | BPF_JGE | BPF_K:
  case BPF_JMP | BPF_JSET | BPF_K:
    // Only the lower half is compared: constants of 64 bits would be sign-extended. Over one jump or the other.
    emit(t, BPF_JMP32 | BPF_OP(i->code) | BPF_K, a, 0, 1, k);
    emit(t, BPF_JMP | BPF_JA, 0, 0, 0, (int32_t)(number + 1 + i->jf));
    emit(t, BPF_JMP | BPF_JA, 0, 0, 0, (int32_t)(number + 1 + i->jt));
    return 0;
  case BPF_RET | BPF_K:
    emit(t, BPF_ALU | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, k);
    emit(t, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    return 0;
  default: return -EINVAL;
  }
}

/// Notes which instructions can be come to: jumps lead forward, and the verifier takes no others.
static void find_reachable(const struct sock_filter *classic, size_t count, bool *reachable) {
  reachable[0] = true;
  for (size_t number = 0; number < count; number++) {
    if (!reachable[number]) continue;
    const struct sock_filter *i = classic + number;
    size_t next[2] = {number + 1, number + 1};
    if (i->code == (BPF_JMP | BPF_JA)) {
      next[0] = next[1] = number + 1 + i->k;
    } else if (BPF_CLASS(i->code) == BPF_JMP) {
      next[0] += i->jt;
      next[1] += i->jf;
    } else if (BPF_CLASS(i->code) == BPF_RET) {
      continue;
    }
    for (int way = 0; way < 2; way++)
      if (next[way] < count) reachable[next[way]] = true;
  }
}

int kalsae_bpf_load_classic(const void *instructions, size_t count) {
  if (!count || count > 4096) return -EINVAL;
  const struct sock_filter *classic = instructions;
  struct translation t = {.out = calloc(count * 4 + 3 + words, sizeof *t.out)};
  size_t *starts = calloc(count, sizeof *starts);
  bool *reachable = calloc(count, sizeof *reachable);
  int result = t.out && starts && reachable ? 0 : -ENOMEM;
  if (!result) {
    find_reachable(classic, count, reachable);
    emit(&t, BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_6, BPF_REG_1, 0, 0);
    emit(&t, BPF_ALU64 | BPF_MOV | BPF_K, a, 0, 0, 0);
    emit(&t, BPF_ALU64 | BPF_MOV | BPF_K, x, 0, 0, 0);
    for (size_t word = 0; word < words; word += 2) emit(&t, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, slot((uint32_t)word), 0);
  }
  for (size_t number = 0; !result && number < count; number++) {
    if (!reachable[number]) continue;
    starts[number] = t.length;
    result = translate(&t, classic + number, number);
  }
  for (size_t place = 0; !result && place < t.length; place++) {
    if (t.out[place].code != (BPF_JMP | BPF_JA)) continue;
    size_t target = (size_t)t.out[place].imm;
    if (target >= count || starts[target] - place - 1 > INT16_MAX) {
      result = -EINVAL;
    } else {
      t.out[place].off = (int16_t)(starts[target] - place - 1);
      t.out[place].imm = 0;
    }
  }
  if (!result) result = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "kalsae_claims", "GPL", t.out, t.length, NULL);
  free(t.out);
  free(starts);
  free(reachable);
  return result;
}

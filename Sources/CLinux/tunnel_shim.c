#define _GNU_SOURCE
#include "tunnel_shim.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// A TCP super-frame behind a tunnel's headers cannot be handed to the kernel by AF_PACKET alone: `virtio_net_hdr` has no
// word for it, and the kernel would not know what to repeat in each segment. So the frame goes out as if it were plain
// TCP, with the outer headers already before it, and with a mark; the program at the device's egress takes the headers
// off and puts them back by bpf_skb_adjust_room, which tells the kernel what they are. From there on the packet is what
// the kernel's own tunnel devices make: one super-frame as far as the devices carry it, cut by hardware or at the last
// moment.
//
// The frame's Ethernet type is the inner packet's, because the kernel notes it as the inner protocol; the program sets
// the outer one.

enum {
  // linux/bpf.h of 6.6 and later; the program's other constants are older.
  tcx_egress = 47,
  tcx_next = -1,
  drop = 2,
};

#define INSN(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV_IMM(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define MOV_REG(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define ALU_IMM(op, d, i) INSN(BPF_ALU64 | (op) | BPF_K, d, 0, 0, i)
#define ALU_REG(op, d, s) INSN(BPF_ALU64 | (op) | BPF_X, d, s, 0, 0)
#define LOAD_W(d, s, o) INSN(BPF_LDX | BPF_W | BPF_MEM, d, s, o, 0)
#define STORE_W(d, s, o) INSN(BPF_STX | BPF_W | BPF_MEM, d, s, o, 0)
#define STORE_DW_IMM(d, o, i) INSN(BPF_ST | BPF_DW | BPF_MEM, d, 0, o, i)
#define STORE_H_IMM(d, o, i) INSN(BPF_ST | BPF_H | BPF_MEM, d, 0, o, i)
#define JUMP(op, d, i, o) INSN(BPF_JMP | (op) | BPF_K, d, 0, o, i)
#define CALL(f) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT() INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define LOAD_IMM64(d, v) \
  INSN(BPF_LD | BPF_DW | BPF_IMM, d, 0, 0, (int32_t)(uint32_t)(v)), INSN(0, 0, 0, 0, (int32_t)((uint64_t)(v) >> 32))

static int bpf(int command, union bpf_attr *attributes, unsigned size) {
  return (int)syscall(SYS_bpf, command, attributes, size);
}

static int load(const char **step) {
  enum { longest = KALSAE_TUNNEL_LONGEST, buffer = -(int)KALSAE_TUNNEL_LONGEST, type = buffer - 8 };
  enum { c = BPF_REG_6, mark = BPF_REG_7, length = BPF_REG_8, flags = BPF_REG_9 };
  const struct bpf_insn program[] = {
      /* 0 */ MOV_REG(c, BPF_REG_1),
      /* 1 */ LOAD_W(mark, c, offsetof(struct __sk_buff, mark)),
      /* 2 */ MOV_REG(length, mark),
      /* 3 */ ALU_IMM(BPF_RSH, length, 16),
      /* 4 */ JUMP(BPF_JEQ, length, 0x6b61, 2),
      // Not ours: what else is attached decides.
      /* 5 */ MOV_IMM(BPF_REG_0, tcx_next),
      /* 6 */ EXIT(),
      /* 7 */ MOV_IMM(BPF_REG_1, 0),
      /* 8 */ STORE_W(c, BPF_REG_1, offsetof(struct __sk_buff, mark)),
      /* 9 */ MOV_REG(length, mark),
      /* 10 */ ALU_IMM(BPF_RSH, length, 8),
      /* 11 */ ALU_IMM(BPF_AND, length, 0xff),
      /* 12 */ JUMP(BPF_JGT, length, longest, 52),
      /* 13 */ JUMP(BPF_JLT, length, 20, 51),
      // The outer headers, onto the stack.
      /* 14 */ STORE_DW_IMM(BPF_REG_10, buffer, 0),
      /* 15 */ STORE_DW_IMM(BPF_REG_10, buffer + 8, 0),
      /* 16 */ STORE_DW_IMM(BPF_REG_10, buffer + 16, 0),
      /* 17 */ STORE_DW_IMM(BPF_REG_10, buffer + 24, 0),
      /* 18 */ STORE_DW_IMM(BPF_REG_10, buffer + 32, 0),
      /* 19 */ STORE_DW_IMM(BPF_REG_10, buffer + 40, 0),
      /* 20 */ STORE_DW_IMM(BPF_REG_10, buffer + 48, 0),
      /* 21 */ STORE_DW_IMM(BPF_REG_10, buffer + 56, 0),
      /* 22 */ STORE_DW_IMM(BPF_REG_10, buffer + 64, 0),
      /* 23 */ STORE_DW_IMM(BPF_REG_10, buffer + 72, 0),
      /* 24 */ MOV_REG(BPF_REG_1, c),
      /* 25 */ MOV_IMM(BPF_REG_2, 14),
      /* 26 */ MOV_REG(BPF_REG_3, BPF_REG_10),
      /* 27 */ ALU_IMM(BPF_ADD, BPF_REG_3, buffer),
      /* 28 */ MOV_REG(BPF_REG_4, length),
      /* 29 */ CALL(BPF_FUNC_skb_load_bytes),
      /* 30 */ JUMP(BPF_JNE, BPF_REG_0, 0, 34),
      // Off with them.
      /* 31 */ MOV_REG(BPF_REG_1, c),
      /* 32 */ MOV_IMM(BPF_REG_2, 0),
      /* 33 */ ALU_REG(BPF_SUB, BPF_REG_2, length),
      /* 34 */ MOV_IMM(BPF_REG_3, BPF_ADJ_ROOM_MAC),
      /* 35 */ MOV_IMM(BPF_REG_4, BPF_F_ADJ_ROOM_FIXED_GSO),
      /* 36 */ CALL(BPF_FUNC_skb_adjust_room),
      /* 37 */ JUMP(BPF_JNE, BPF_REG_0, 0, 27),
      // What they are; the Ethernet type that fits.
      /* 38 */ STORE_H_IMM(BPF_REG_10, type, (int16_t)htons(0x0800)),
      /* 39 */ MOV_IMM(flags, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4),
      /* 40 */ INSN(BPF_JMP | BPF_JSET | BPF_K, mark, 0, 1, KALSAE_TUNNEL_IPV6),
      /* 41 */ INSN(BPF_JMP | BPF_JA, 0, 0, 2, 0),
      /* 42 */ STORE_H_IMM(BPF_REG_10, type, (int16_t)htons(0x86dd)),
      /* 43 */ MOV_IMM(flags, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6),
      /* 44 */ INSN(BPF_JMP | BPF_JSET | BPF_K, mark, 0, 1, KALSAE_TUNNEL_GRE),
      /* 45 */ INSN(BPF_JMP | BPF_JA, 0, 0, 1, 0),
      /* 46 */ ALU_IMM(BPF_OR, flags, BPF_F_ADJ_ROOM_ENCAP_L4_GRE),
      /* 47 */ INSN(BPF_JMP | BPF_JSET | BPF_K, mark, 0, 1, KALSAE_TUNNEL_UDP),
      /* 48 */ INSN(BPF_JMP | BPF_JA, 0, 0, 3, 0),
      /* 49 */
      LOAD_IMM64(BPF_REG_1, BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(14)),
      /* 51 */ ALU_REG(BPF_OR, flags, BPF_REG_1),
      // Back on, by name.
      /* 52 */ MOV_REG(BPF_REG_1, c),
      /* 53 */ MOV_REG(BPF_REG_2, length),
      /* 54 */ MOV_IMM(BPF_REG_3, BPF_ADJ_ROOM_MAC),
      /* 55 */ MOV_REG(BPF_REG_4, flags),
      /* 56 */ CALL(BPF_FUNC_skb_adjust_room),
      /* 57 */ JUMP(BPF_JNE, BPF_REG_0, 0, 7),
      /* 58 */ MOV_REG(BPF_REG_1, c),
      /* 59 */ MOV_IMM(BPF_REG_2, 14),
      /* 60 */ MOV_REG(BPF_REG_3, BPF_REG_10),
      /* 61 */ ALU_IMM(BPF_ADD, BPF_REG_3, buffer),
      /* 62 */ MOV_REG(BPF_REG_4, length),
      /* 63 */ MOV_IMM(BPF_REG_5, 0),
      /* 64 */ INSN(BPF_JMP | BPF_JA, 0, 0, 2, 0),
      // Where it fails nothing must leave: half of a packet, or one with a checksum that nobody finishes (TUN-9).
      /* 65 */ MOV_IMM(BPF_REG_0, drop),
      /* 66 */ EXIT(),
      /* 67 */ CALL(BPF_FUNC_skb_store_bytes),
      /* 68 */ JUMP(BPF_JNE, BPF_REG_0, 0, -4),
      /* 69 */ MOV_REG(BPF_REG_1, c),
      /* 70 */ MOV_IMM(BPF_REG_2, 12),
      /* 71 */ MOV_REG(BPF_REG_3, BPF_REG_10),
      /* 72 */ ALU_IMM(BPF_ADD, BPF_REG_3, type),
      /* 73 */ MOV_IMM(BPF_REG_4, 2),
      /* 74 */ MOV_IMM(BPF_REG_5, 0),
      /* 75 */ CALL(BPF_FUNC_skb_store_bytes),
      /* 76 */ JUMP(BPF_JNE, BPF_REG_0, 0, -12),
      /* 77 */ MOV_IMM(BPF_REG_0, tcx_next),
      /* 78 */ EXIT(),
  };
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_SCHED_CLS;
  attributes.insn_cnt = sizeof program / sizeof *program;
  attributes.insns = (uint64_t)(uintptr_t)program;
  attributes.license = (uint64_t)(uintptr_t) "Apache-2.0";
  memcpy(attributes.prog_name, "kalsae_tunnel", 14);
  *step = "load the tunnel program";
#ifdef TUNNEL_LOG
  static char log[1 << 20];
  attributes.log_level = 1;
  attributes.log_size = sizeof log;
  attributes.log_buf = (uint64_t)(uintptr_t)log;
#endif
  int fd = bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
#ifdef TUNNEL_LOG
  if (fd < 0) TUNNEL_LOG(log);
#endif
  return fd < 0 ? -errno : fd;
}

int kalsae_tunnel_attach(int ifindex, const char **step) {
  int program = load(step);
  if (program < 0) return program;
  // The part of `union bpf_attr` that tcx wants; older headers do not have it.
  union {
    union bpf_attr attributes;
    struct {
      uint32_t program, target, type, flags, relative;
      uint64_t revision;
    } link;
  } request;
  memset(&request, 0, sizeof request);
  request.link.program = (uint32_t)program;
  request.link.target = (uint32_t)ifindex;
  request.link.type = tcx_egress;
  *step = "attach the tunnel program to the device's egress";
  int fd = bpf(BPF_LINK_CREATE, &request.attributes, sizeof request.attributes);
  int error = errno;
  close(program);
  return fd < 0 ? -error : fd;
}

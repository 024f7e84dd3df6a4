#pragma once
// What all programs need of the kernel: its published interface alone, no structure that another kernel may have
// otherwise.
#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "ebpf_maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

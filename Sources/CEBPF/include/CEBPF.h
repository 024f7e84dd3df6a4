#pragma once
// libbpf and the bpf(2) system call behind functions that Swift can call, and the layouts of the maps. No header of
// libbpf is seen from outside: it clashes with libpcap's.
#include "bpf_shim.h"
#include "ebpf_maps.h"
#include "ebpf_policy.h"
#include "ebpf_steer.h"
#include "socket_diag.h"

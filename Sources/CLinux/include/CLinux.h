#pragma once
// Constants, structures and `static inline` wrappers of Linux interfaces that Swift cannot import by itself.
#include "agent_shim.h"
#include "bench_shim.h"
#include "inotify_shim.h"
#include "instructions_shim.h"
#include "lab_shim.h"
#include "ports_shim.h"
#include "process_shim.h"
#include "traffic_shim.h"
#include "tunnel_shim.h"
#include "xdp_shim.h"

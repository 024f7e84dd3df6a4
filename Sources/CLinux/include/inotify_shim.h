#pragma once
// What a thread that waits for inotify(7) needs and Swift's Glibc module does not import.
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

/// A descriptor that becomes readable once something is written to it; -1 and errno on failure.
static inline int kalsae_wake_descriptor(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

/// Names the calling thread for ps and debuggers; at most 15 bytes count.
static inline void kalsae_name_thread(const char *name) { prctl(PR_SET_NAME, name); }

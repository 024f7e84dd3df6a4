#pragma once
#include <sys/prctl.h>

/// Has the kernel give this process small pages only: for programs that hold many tables of which little is used.
static inline void kalsae_small_pages_only(void) { (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); }

#pragma once
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

/// Has the kernel give this process small pages only: for programs that hold many tables of which little is used.
static inline void kalsae_small_pages_only(void) { (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); }

/// From now on SIGINT, SIGTERM and SIGHUP are only noted, the first time; a second one ends the program.
void kalsae_note_interruption(void);

/// The signal that has come; 0 for none.
int kalsae_interruption(void);

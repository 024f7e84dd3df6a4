#include "process_shim.h"

static volatile sig_atomic_t noted;

static void note(int number) { noted = number; }

void kalsae_note_interruption(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = note;
  // Waiting for a pipe ends too; whoever does not want to wait for the rest may say so twice.
  action.sa_flags = (int)SA_RESETHAND;
  // Whoever started the program may have had them blocked.
  sigset_t set;
  sigemptyset(&set);
  for (const int *number = (const int[]){SIGINT, SIGTERM, SIGHUP, 0}; *number; number++) {
    sigaction(*number, &action, NULL);
    sigaddset(&set, *number);
  }
  sigprocmask(SIG_UNBLOCK, &set, NULL);
}

int kalsae_interruption(void) { return noted; }

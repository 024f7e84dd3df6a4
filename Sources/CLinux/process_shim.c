#include "process_shim.h"

static volatile sig_atomic_t noted;

static void note(int number) { noted = number; }

void kalsae_note_interruption(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = note;
  // Whoever does not want to wait may say so twice.
  action.sa_flags = (int)(SA_RESTART | SA_RESETHAND);
  for (const int *number = (const int[]){SIGINT, SIGTERM, SIGHUP, 0}; *number; number++) sigaction(*number, &action, NULL);
}

int kalsae_interruption(void) { return noted; }

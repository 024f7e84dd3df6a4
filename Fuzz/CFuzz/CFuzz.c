#define _GNU_SOURCE
#include "CFuzz.h"

#include <stdio.h>
#include <sys/mman.h>

int kalsae_memory_file(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

void kalsae_complain(const char *text) { fprintf(stderr, "%s\n", text); }

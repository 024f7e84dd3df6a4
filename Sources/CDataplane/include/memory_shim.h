#pragma once
// Zeroed memory for tables: whole pages from the kernel, huge ones where it has them.
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/// Returns `size` zeroed octets, or NULL. Pages are taken when they are first touched. From 2 MiB on, the memory is
/// aligned to 2 MiB and huge pages are asked for.
static inline void *kalsae_map(size_t size) {
  const size_t huge = (size_t)2 << 20;
  size_t span = size >= huge ? size + huge : size;
  char *p = (char *)mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == (char *)MAP_FAILED) return NULL;
  if (span == size) return p;
  size_t skip = (huge - ((size_t)p & (huge - 1))) & (huge - 1);
  if (skip) munmap(p, skip);
  p += skip;
  if (huge - skip) munmap(p + size, huge - skip);
  madvise(p, size, MADV_HUGEPAGE);
  return p;
}

/// Gives back what `kalsae_map` returned.
static inline void kalsae_unmap(void *p, size_t size) {
  if (p) munmap(p, size);
}

/// Gives whole pages back to the kernel; they are zero when they are touched again.
static inline void kalsae_discard(void *p, size_t size) { madvise(p, size, MADV_DONTNEED); }

/// Makes `size` octets of the `old_size` that `kalsae_map` returned, both whole pages; the new ones are zero. The pages
/// move, their contents are not copied. Returns NULL when there is no room, and then leaves all as it was.
static inline void *kalsae_grow(void *p, size_t old_size, size_t size) {
  char *bigger = (char *)kalsae_map(size);
  if (bigger == NULL) return NULL;
  const long may_move = 1, fixed = 2; /* MREMAP_MAYMOVE, MREMAP_FIXED */
  if (syscall(SYS_mremap, p, old_size, old_size, may_move | fixed, bigger) == (long)bigger) return bigger;
  /* The kernel may have given up a part of the new memory already. */
  munmap(bigger, size);
  bigger = (char *)kalsae_map(size);
  if (bigger == NULL) return NULL;
  memcpy(bigger, p, old_size);
  munmap(p, old_size);
  return bigger;
}

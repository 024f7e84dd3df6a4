#pragma once
// Zeroed memory for tables: whole pages from the kernel, huge ones where it has them.
#include <stddef.h>
#include <sys/mman.h>

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

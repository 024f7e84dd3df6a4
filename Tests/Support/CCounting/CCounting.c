#include "CCounting.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

static kalsae_counts counts;

// The C library's own, under the names that it keeps for this.
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

void *malloc(size_t size) {
  counts.allocations++;
  return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  counts.allocations++;
  return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
  counts.allocations++;
  return __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size) {
  counts.allocations++;
  return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **result, size_t alignment, size_t size) {
  void *memory = memalign(alignment, size);
  if (!memory) return ENOMEM;
  *result = memory;
  return 0;
}

void free(void *memory) {
  if (memory) counts.frees++;
  __libc_free(memory);
}

// The runtime's own way for tools that watch it.
extern _Atomic(bool) _swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly;
extern void *(*_swift_allocObject)(const void *, size_t, size_t);
extern void *(*_swift_retain)(void *);
extern void *(*_swift_retain_n)(void *, uint32_t);
extern void *(*_swift_tryRetain)(void *);
extern void (*_swift_release)(void *);
extern void (*_swift_release_n)(void *, uint32_t);

static void *(*real_alloc)(const void *, size_t, size_t);
static void *(*real_retain)(void *);
static void *(*real_retain_n)(void *, uint32_t);
static void *(*real_try_retain)(void *);
static void (*real_release)(void *);
static void (*real_release_n)(void *, uint32_t);

static void *count_alloc(const void *metadata, size_t size, size_t mask) {
  counts.objects++;
  return real_alloc(metadata, size, mask);
}

static void *count_retain(void *object) {
  counts.retains++;
  return real_retain(object);
}

static void *count_retain_n(void *object, uint32_t n) {
  counts.retains += n;
  return real_retain_n(object, n);
}

static void *count_try_retain(void *object) {
  counts.retains++;
  return real_try_retain(object);
}

static void count_release(void *object) {
  counts.releases++;
  real_release(object);
}

static void count_release_n(void *object, uint32_t n) {
  counts.releases += n;
  real_release_n(object, n);
}

void kalsae_counting_start(void) {
  counts = (kalsae_counts){0};
  real_alloc = _swift_allocObject;
  real_retain = _swift_retain;
  real_retain_n = _swift_retain_n;
  real_try_retain = _swift_tryRetain;
  real_release = _swift_release;
  real_release_n = _swift_release_n;
  _swift_allocObject = count_alloc;
  _swift_retain = count_retain;
  _swift_retain_n = count_retain_n;
  _swift_tryRetain = count_try_retain;
  _swift_release = count_release;
  _swift_release_n = count_release_n;
  atomic_store(&_swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly, true);
}

kalsae_counts kalsae_counting_stop(void) {
  atomic_store(&_swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly, false);
  _swift_allocObject = real_alloc;
  _swift_retain = real_retain;
  _swift_retain_n = real_retain_n;
  _swift_tryRetain = real_try_retain;
  _swift_release = real_release;
  _swift_release_n = real_release_n;
  return counts;
}

#include "bpf_shim.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <string.h>

struct records {
  uint8_t *out;
  size_t size;
  uint32_t limit;
  uint32_t count;
};

static int take(void *context, void *data, size_t length) {
  struct records *records = context;
  if (length != records->size) return 0;
  // The last ones count.
  if (records->count == records->limit) {
    memmove(records->out, records->out + records->size, (records->limit - 1) * records->size);
    records->count--;
  }
  memcpy(records->out + records->count++ * records->size, data, length);
  return 0;
}

int kalsae_bpf_ring_take(int ring, void *out, size_t size, uint32_t limit) {
  struct records records = {.out = out, .size = size, .limit = limit};
  if (!limit) return 0;
  struct ring_buffer *buffer = ring_buffer__new(ring, take, &records, NULL);
  if (!buffer) return -errno;
  int result = ring_buffer__consume(buffer);
  ring_buffer__free(buffer);
  return result < 0 ? result : (int)records.count;
}

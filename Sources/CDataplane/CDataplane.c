#include "CDataplane.h"

#include <string.h>

uint64_t kalsae_sum(const void *octets, size_t length) {
  const uint8_t *p = octets;
  uint64_t sum = 0;
  while (length >= 4) {
    uint32_t word;
    memcpy(&word, p, 4);
    sum += word;
    p += 4;
    length -= 4;
  }
  if (length) {
    uint32_t word = 0;
    memcpy(&word, p, length);
    sum += word;
  }
  return (sum & 0xffffffff) + (sum >> 32);
}

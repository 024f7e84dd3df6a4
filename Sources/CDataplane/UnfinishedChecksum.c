#include "CDataplane.h"

#include <string.h>

// Checksums that a sender has left to the device, found in the frame itself.

static uint16_t fold(uint64_t total) {
  total = (total & 0xffffffff) + (total >> 32);
  total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
  total = (total & 0xffff) + (total >> 16);
  return (uint16_t)((total & 0xffff) + (total >> 16));
}

static uint16_t word(const uint8_t *octets) { return (uint16_t)(octets[0] << 8 | octets[1]); }

static int finish_transport(uint8_t protocol, uint64_t addresses, uint8_t *transport, uint32_t length) {
  uint32_t field = protocol == 6 ? 16 : protocol == 17 ? 6 : 8;
  if (length < (protocol == 6 ? 20 : protocol == 17 ? 8 : 12)) return 0;
  if (protocol == 132) {
    uint32_t crc = 0;
    if (memcmp(transport + field, &crc, 4)) return 0;
    // RFC 9260, appendix A: least significant octet first.
    crc = ~kalsae_crc32c(0xffffffff, transport, length);
    memcpy(transport + field, &crc, 4);
    return 1;
  }
  uint8_t pseudo[4] = {0, protocol, (uint8_t)(length >> 8), (uint8_t)length};
  uint16_t found, partial = fold(addresses + kalsae_sum(pseudo, 4));
  memcpy(&found, transport + field, 2);
  if (found != partial) return 0;
  uint16_t finished = (uint16_t)~fold(kalsae_sum(transport, length));
  if (protocol == 17 && !finished) finished = 0xffff;
  memcpy(transport + field, &finished, 2);
  return 1;
}

static int finish_packet(uint16_t type, uint8_t *packet, uint32_t length, int depth);

static int finish_frame(uint8_t *frame, uint32_t length, int depth) {
  if (length < 14) return 0;
  uint32_t at = 12;
  uint16_t type = word(frame + at);
  while ((type == 0x8100 || type == 0x88a8) && at + 6 <= length) type = word(frame + (at += 4));
  return finish_packet(type, frame + at + 2, length - at - 2, depth);
}

/// What an unfinished checksum can be behind: VXLAN (RFC 7348), Geneve (RFC 8926) by their usual ports, GRE (RFC 2784).
static int finish_inside(uint8_t protocol, uint8_t *outer, uint32_t length, int depth) {
  if (depth == 0) return 0;
  if (protocol == 4) return finish_packet(0x0800, outer, length, depth - 1);
  if (protocol == 41) return finish_packet(0x86dd, outer, length, depth - 1);
  if (protocol == 17 && length >= 16) {
    uint16_t port = word(outer + 2);
    uint32_t at = 16;
    if (port == 6081) {
      at += (uint32_t)(outer[8] & 0x3f) * 4;
      if (at > length) return 0;
      uint16_t inner = word(outer + 10);
      return inner == 0x6558 ? finish_frame(outer + at, length - at, depth - 1)
                             : finish_packet(inner, outer + at, length - at, depth - 1);
    }
    return port == 4789 || port == 8472 ? finish_frame(outer + at, length - at, depth - 1) : 0;
  }
  if (protocol == 47 && length >= 4) {
    uint32_t at = 4 + (outer[0] & 0x80 ? 4 : 0) + (outer[0] & 0x20 ? 4 : 0) + (outer[0] & 0x10 ? 4 : 0);
    if (at > length) return 0;
    uint16_t inner = word(outer + 2);
    return inner == 0x6558 ? finish_frame(outer + at, length - at, depth - 1)
                           : finish_packet(inner, outer + at, length - at, depth - 1);
  }
  return 0;
}

static int finish_packet(uint16_t type, uint8_t *packet, uint32_t length, int depth) {
  uint8_t protocol;
  uint32_t head, total;
  uint64_t addresses;
  if (type == 0x0800) {
    if (length < 20) return 0;
    head = (uint32_t)(packet[0] & 15) * 4;
    total = word(packet + 2);
    // Of a fragment nobody leaves the checksum unfinished.
    if (head < 20 || total < head || total > length || word(packet + 6) & 0x3fff) return 0;
    protocol = packet[9];
    addresses = kalsae_sum(packet + 12, 8);
  } else if (type == 0x86dd) {
    if (length < 40) return 0;
    head = 40;
    total = 40u + word(packet + 4);
    if (total > length) return 0;
    protocol = packet[6];
    addresses = kalsae_sum(packet + 8, 32);
    // Hop-by-hop, routing and destination options.
    while ((protocol == 0 || protocol == 43 || protocol == 60) && head + 8 <= total) {
      protocol = packet[head];
      head += (packet[head + 1] + 1u) * 8;
    }
    if (head > total) return 0;
  } else {
    return 0;
  }
  if (protocol == 6 || protocol == 17 || protocol == 132) {
    if (finish_transport(protocol, addresses, packet + head, total - head)) return 1;
  }
  return finish_inside(protocol, packet + head, total - head, depth);
}

int kalsae_finish_checksum(uint8_t *frame, uint32_t length) { return finish_frame(frame, length, 1); }

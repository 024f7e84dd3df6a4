#pragma once
// libpcap and libbpf both define struct bpf_insn; see ARCHITECTURE.md.
#include <pcap/pcap.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/// The C library heeds the size of a buffer only where it is given the memory. As much as stays in a core's second cache
/// beside what the pipeline reads there: reading alone took up to half as long again by 256 KiB.
#define KALSAE_FILE_BUFFER (64 << 10)

/// Opens a capture with nanosecond time stamps and a large buffer. Null on failure: then `error` (PCAP_ERRBUF_SIZE
/// octets) says why, and `*code` is the errno of opening the file, or 0 where the contents were refused. `*buffer` is to be freed when the
/// capture is closed.
static inline pcap_t *kalsae_pcap_open(const char *path, FILE **file, int64_t *size, int *code, char *error,
                                      void **buffer) {
  *code = 0;
  *size = 0;
  *error = 0;
  FILE *f = fopen(path, "re");
  if (!f) {
    *code = errno;
    return NULL;
  }
  struct stat status;
  if (fstat(fileno(f), &status) == 0) {
    if (S_ISDIR(status.st_mode)) {
      *code = EISDIR;
      fclose(f);
      return NULL;
    }
    if (S_ISREG(status.st_mode)) *size = status.st_size;
  }
  *buffer = malloc(KALSAE_FILE_BUFFER);
  if (*buffer) (void)setvbuf(f, *buffer, _IOFBF, KALSAE_FILE_BUFFER);
  // One thread reads a capture: libpcap's two reads a packet need not lock the file.
  (void)__fsetlocking(f, FSETLOCKING_BYCALLER);
  pcap_t *p = pcap_fopen_offline_with_tstamp_precision(f, PCAP_TSTAMP_PRECISION_NANO, error);
  if (!p) {
    fclose(f);
    free(*buffer);
    *buffer = NULL;
  }
  *file = f;
  return p;
}

/// A file to write a capture to. Null on failure, with errno in `*code`. `*buffer` is to be freed when the dumper is
/// closed.
static inline pcap_dumper_t *kalsae_pcap_create(pcap_t *pcap, const char *path, int *code, void **buffer) {
  FILE *f = fopen(path, "we");
  if (!f) {
    *code = errno;
    return NULL;
  }
  *buffer = malloc(KALSAE_FILE_BUFFER);
  if (*buffer) (void)setvbuf(f, *buffer, _IOFBF, KALSAE_FILE_BUFFER);
  errno = 0;
  pcap_dumper_t *dumper = pcap_dump_fopen(pcap, f);
  *code = dumper ? 0 : errno ? errno : EIO;
  if (!dumper) {
    fclose(f);
    free(*buffer);
    *buffer = NULL;
  }
  return dumper;
}

/// Adds a packet. 0 or the errno of the failure, which libpcap itself keeps quiet about.
static inline int kalsae_pcap_dump(pcap_dumper_t *dumper, const struct pcap_pkthdr *header, const void *octets) {
  errno = 0;
  pcap_dump((u_char *)dumper, header, (const u_char *)octets);
  int code = errno;
  return code && ferror(pcap_dump_file(dumper)) ? code : 0;
}

/// Writes out what is buffered. 0 or the errno of the failure.
static inline int kalsae_pcap_flush(pcap_dumper_t *dumper) {
  errno = 0;
  if (pcap_dump_flush(dumper) != 0 || ferror(pcap_dump_file(dumper))) return errno ? errno : EIO;
  return 0;
}

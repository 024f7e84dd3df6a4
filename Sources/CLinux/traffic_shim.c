#define _GNU_SOURCE
#include "traffic_shim.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

enum { batch = 32, longest = 1472 };

static uint64_t clock_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int kalsae_udp_open(uint16_t port) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  int size = 8 << 20;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  struct timeval patience = {.tv_usec = 100000};
  (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (bind(fd, (struct sockaddr *)&address, sizeof address)) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int kalsae_udp_connect(int fd, uint32_t host, uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(host)}};
  return connect(fd, (struct sockaddr *)&address, sizeof address) ? -errno : 0;
}

struct sink {
  int descriptor;
  atomic_bool stop;
  uint64_t received;
};

static void *sink_main(void *argument) {
  struct sink *sink = argument;
  static _Thread_local char memory[batch][longest];
  struct iovec vectors[batch];
  struct mmsghdr messages[batch];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < batch; i++) {
    vectors[i] = (struct iovec){memory[i], longest};
    messages[i].msg_hdr.msg_iov = vectors + i;
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  uint64_t seen = clock_now();
  for (;;) {
    int count = recvmmsg(sink->descriptor, messages, batch, MSG_DONTWAIT, NULL);
    const uint64_t now = clock_now();
    if (count > 0) {
      sink->received += (uint64_t)count;
      seen = now;
      continue;
    }
    // Nothing more is on its way.
    if (atomic_load(&sink->stop) && now - seen > 100000000) return NULL;
    struct timespec time = {.tv_nsec = 500000};
    nanosleep(&time, NULL);
  }
}

int kalsae_udp_rate(
    int sender, int receiver, uint64_t rate, uint64_t nanoseconds, uint32_t size, struct kalsae_rate *out) {
  if (size > longest) return -EMSGSIZE;
  struct sink sink = {.descriptor = receiver};
  pthread_t thread;
  int error = pthread_create(&thread, NULL, sink_main, &sink);
  if (error) return -error;
  char payload[longest];
  memset(payload, 0x5a, sizeof payload);
  struct iovec vector = {payload, size};
  struct mmsghdr messages[batch];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < batch; i++) {
    messages[i].msg_hdr.msg_iov = &vector;
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  uint64_t sent = 0, start = clock_now(), now = start;
  while (now - start < nanoseconds) {
    unsigned count = batch;
    if (rate) {
      uint64_t due = (uint64_t)((double)(now - start) * (double)rate / 1e9);
      if (due <= sent) {
        // Bursts of 50 µs, as a timer would make them.
        struct timespec time = {.tv_nsec = 50000};
        nanosleep(&time, NULL);
        now = clock_now();
        continue;
      }
      if (due - sent < count) count = (unsigned)(due - sent);
    }
    int done = sendmmsg(sender, messages, count, 0);
    if (done > 0) sent += (uint64_t)done;
    if (done < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR && errno != ECONNREFUSED) error = errno;
    now = clock_now();
    if (error) break;
  }
  out->nanoseconds = now - start;
  out->sent = sent;
  atomic_store(&sink.stop, true);
  pthread_join(thread, NULL);
  out->received = sink.received;
  return -error;
}

struct echo {
  int descriptor;
  atomic_bool stop;
};

static void *echo_main(void *argument) {
  struct echo *echo = argument;
  char memory[longest];
  while (!atomic_load(&echo->stop)) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t count = recvfrom(echo->descriptor, memory, sizeof memory, 0, (struct sockaddr *)&from, &length);
    if (count < 0) continue;
    (void)!sendto(echo->descriptor, memory, (size_t)count, 0, (struct sockaddr *)&from, length);
  }
  return NULL;
}

int kalsae_udp_round_trips(
    int client, int server, uint32_t size, uint32_t count, uint64_t nanoseconds, uint64_t *samples) {
  if (size < sizeof(uint32_t) || size > longest) return -EMSGSIZE;
  struct echo echo = {.descriptor = server};
  pthread_t thread;
  int error = pthread_create(&thread, NULL, echo_main, &echo);
  if (error) return -error;
  char payload[longest] = {0}, answer[longest];
  uint32_t done = 0;
  uint64_t start = clock_now();
  for (uint32_t number = 1; done < count; number++) {
    uint64_t before = clock_now();
    if (before - start > nanoseconds) break;
    memcpy(payload, &number, sizeof number);
    if (send(client, payload, size, 0) < 0 && errno != ECONNREFUSED) {
      error = errno;
      break;
    }
    // An answer that came too late for its question is passed over.
    uint32_t found = 0;
    while (recv(client, answer, sizeof answer, 0) >= (ssize_t)sizeof found) {
      memcpy(&found, answer, sizeof found);
      if (found == number) break;
    }
    if (found == number) samples[done++] = clock_now() - before;
  }
  atomic_store(&echo.stop, true);
  pthread_join(thread, NULL);
  return error ? -error : (int)done;
}

static atomic_bool awake;
static pthread_t awake_threads[256];
static int awake_count;

static void *awake_main(void *argument) {
  (void)argument;
  struct sched_param none = {0};
  // Without this policy the thread would take processor time from what is measured.
  if (sched_setscheduler(0, SCHED_IDLE, &none)) return NULL;
  while (atomic_load_explicit(&awake, memory_order_relaxed)) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return NULL;
}

int kalsae_keep_awake(void) {
  atomic_store(&awake, true);
  int count = get_nprocs();
  for (awake_count = 0; awake_count < count && awake_count < 256; awake_count++) {
    int error = pthread_create(&awake_threads[awake_count], NULL, awake_main, NULL);
    if (error) {
      kalsae_let_sleep();
      return -error;
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(awake_count, &set);
    (void)pthread_setaffinity_np(awake_threads[awake_count], sizeof set, &set);
  }
  return 0;
}

void kalsae_let_sleep(void) {
  atomic_store(&awake, false);
  for (int i = 0; i < awake_count; i++) pthread_join(awake_threads[i], NULL);
  awake_count = 0;
}

int kalsae_process_pin(int pid, int processor) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR *folder = opendir(path);
  if (!folder) return -errno;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  int result = 0;
  for (struct dirent *entry; (entry = readdir(folder));) {
    int thread = atoi(entry->d_name);
    if (thread > 0 && sched_setaffinity(thread, sizeof set, &set)) result = -errno;
  }
  closedir(folder);
  return result;
}

#define _GNU_SOURCE
#include "agent_shim.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct start {
  void (*body)(void *);
  void *context;
  char name[16];
};

static void *run(void *argument) {
  struct start start = *(struct start *)argument;
  free(argument);
  (void)pthread_setname_np(pthread_self(), start.name);
  start.body(start.context);
  return NULL;
}

int kalsae_thread_start(const char *name, void (*body)(void *), void *context) {
  struct start *start = calloc(1, sizeof *start);
  if (!start) return ENOMEM;
  start->body = body;
  start->context = context;
  strncpy(start->name, name, sizeof start->name - 1);
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_t thread;
  int error = pthread_create(&thread, NULL, run, start);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (error)
    free(start);
  else
    pthread_detach(thread);
  return error;
}

int kalsae_thread_pin(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (processor < 0 || processor >= CPU_SETSIZE) return -EINVAL;
  CPU_SET(processor, &set);
  return sched_setaffinity(0, sizeof set, &set) ? -errno : 0;
}

int kalsae_processors(int *numbers, int capacity) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set)) return -errno;
  int count = 0;
  for (int i = 0; i < CPU_SETSIZE && count < capacity; i++)
    if (CPU_ISSET(i, &set)) numbers[count++] = i;
  return count;
}

static uint64_t clock_now(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t kalsae_monotonic(void) { return clock_now(CLOCK_MONOTONIC); }
uint64_t kalsae_realtime(void) { return clock_now(CLOCK_REALTIME); }

int kalsae_signals_open(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (error) return -error;
  int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int kalsae_signals_next(int descriptor) {
  struct signalfd_siginfo info;
  return read(descriptor, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}

int kalsae_lock(const char *path) {
  // Whoever held the lock before may have removed the file just now: then it is another one that counts.
  for (int attempt = 0; attempt < 16; attempt++) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return -errno;
    struct stat own, present;
    if (flock(fd, LOCK_EX | LOCK_NB)) {
      int error = errno;
      close(fd);
      return -error;
    }
    if (!fstat(fd, &own) && !stat(path, &present) && own.st_ino == present.st_ino && own.st_dev == present.st_dev)
      return fd;
    close(fd);
  }
  return -EAGAIN;
}

static int make_address(struct sockaddr_un *address, const char *path, socklen_t *length) {
  size_t size = strlen(path);
  if (size == 0 || size >= sizeof address->sun_path) return -ENAMETOOLONG;
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, size);
  *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
  if (path[0] == '@') {
    address->sun_path[0] = 0;
    *length -= 1;
  }
  return 0;
}

int kalsae_unix_listen(const char *path) {
  struct sockaddr_un address;
  socklen_t length;
  int error = make_address(&address, path, &length);
  if (error) return error;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  (void)unlink(path);
  // The mode that the socket gets when it is bound: nobody can connect in between.
  if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&address, length) || chmod(path, 0600) || listen(fd, 128)) {
    error = -errno;
    close(fd);
    return error;
  }
  return fd;
}

int kalsae_unix_accept(int descriptor, uint32_t *user) {
  int fd = accept4(descriptor, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return -errno;
  struct ucred credentials;
  socklen_t length = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length)) {
    int error = -errno;
    close(fd);
    return error;
  }
  *user = credentials.uid;
  return fd;
}

int kalsae_unix_connect(const char *path, int seconds) {
  struct sockaddr_un address;
  socklen_t length;
  int error = make_address(&address, path, &length);
  if (error) return error;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct timeval bound = {.tv_sec = seconds};
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound) ||
      setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound) ||
      connect(fd, (struct sockaddr *)&address, length)) {
    error = -errno;
    close(fd);
    return error;
  }
  return fd;
}

long kalsae_unix_send(int descriptor, const void *data, unsigned long length) {
  ssize_t count = send(descriptor, data, length, MSG_NOSIGNAL);
  return count < 0 ? -errno : count;
}

int kalsae_send_descriptors(int socket, const int *descriptors, int count) {
  if (count <= 0 || count > KALSAE_DESCRIPTORS) return -EINVAL;
  union {
    char octets[CMSG_SPACE(KALSAE_DESCRIPTORS * sizeof(int))];
    struct cmsghdr aligned;
  } control;
  memset(&control, 0, sizeof control);
  struct iovec part = {.iov_base = " ", .iov_len = 1};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.octets};
  message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
  memcpy(CMSG_DATA(header), descriptors, (size_t)count * sizeof(int));
  ssize_t sent;
  do sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == 1 ? 0 : sent < 0 ? -errno : -EIO;
}

long kalsae_receive_descriptors(int socket, void *buffer, unsigned long capacity, int *descriptors, int *count) {
  union {
    char octets[CMSG_SPACE(KALSAE_DESCRIPTORS * sizeof(int))];
    struct cmsghdr aligned;
  } control;
  struct iovec part = {.iov_base = buffer, .iov_len = capacity};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.octets, .msg_controllen = sizeof control};
  *count = 0;
  ssize_t received;
  do received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  while (received < 0 && errno == EINTR);
  if (received < 0) return -errno;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int found = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    if (found > KALSAE_DESCRIPTORS - *count) found = KALSAE_DESCRIPTORS - *count;
    memcpy(descriptors + *count, CMSG_DATA(header), (size_t)found * sizeof(int));
    *count += found;
  }
  return received;
}

int kalsae_notify(const char *path, const char *message) {
  struct sockaddr_un address;
  socklen_t length;
  int error = make_address(&address, path, &length);
  if (error) return error;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  size_t size = strlen(message);
  if (sendto(fd, message, size, MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&address, length) != (ssize_t)size)
    error = -errno;
  close(fd);
  return error;
}

#define _GNU_SOURCE
#include "lab_shim.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// --- Spawning -------------------------------------------------------------------------------------------------------

struct failure {
  int step;
  int number;
};

_Noreturn static void give_up(int report, int step) {
  struct failure failure = {step, errno};
  ssize_t ignored = write(report, &failure, sizeof failure);
  (void)ignored;
  _exit(127);
}

// Only async-signal-safe calls: the parent has other threads.
_Noreturn static void become(const struct lab_spawn_request *request, int report, pid_t parent) {
  // The descriptors 0 to 2 are replaced below; the report must not be one of them.
  if (report <= 2) {
    int moved = fcntl(report, F_DUPFD_CLOEXEC, 3);
    if (moved < 0) give_up(report, LAB_SPAWN_DESCRIPTORS);
    report = moved;
  }
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);

  int standard[3] = {request->standard_input, request->standard_output, request->standard_error};
  for (int i = 0; i < 3; i++) {
    // First out of the way of 0 to 2, so that no dup2 overwrites what a later one reads.
    standard[i] = fcntl(standard[i], F_DUPFD_CLOEXEC, 3);
    if (standard[i] < 0) give_up(report, LAB_SPAWN_DESCRIPTORS);
  }
  for (int i = 0; i < 3; i++) {
    if (dup2(standard[i], i) < 0) give_up(report, LAB_SPAWN_DESCRIPTORS);
  }

  if (request->netns != NULL) {
    int netns = open(request->netns, O_RDONLY | O_CLOEXEC);
    if (netns < 0) give_up(report, LAB_SPAWN_OPEN_NAMESPACE);
    if (setns(netns, CLONE_NEWNET) != 0) give_up(report, LAB_SPAWN_ENTER_NAMESPACE);
    if (unshare(CLONE_NEWNS) != 0) give_up(report, LAB_SPAWN_MOUNT);
    if (mount("", "/", "none", MS_SLAVE | MS_REC, NULL) != 0) give_up(report, LAB_SPAWN_MOUNT);
    // What is pinned by agents elsewhere on the machine, now or later, is not to be seen here.
    if (mkdir("/run/kalsae", 0755) != 0 && errno != EEXIST) give_up(report, LAB_SPAWN_MOUNT);
    if (mount("/run/kalsae", "/run/kalsae", NULL, MS_BIND, NULL) != 0) give_up(report, LAB_SPAWN_MOUNT);
    if (mount("", "/run/kalsae", NULL, MS_PRIVATE, NULL) != 0) give_up(report, LAB_SPAWN_MOUNT);
    umount2("/sys", MNT_DETACH);
    if (mount("kalsae", "/sys", "sysfs", 0, NULL) != 0) give_up(report, LAB_SPAWN_MOUNT);
  }

  // Everything else closes with the exec.
  syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  execve(request->path, request->argv, request->envp);
  give_up(report, LAB_SPAWN_EXEC);
}

static int spawn_here(const struct lab_spawn_request *request, pid_t *pid, int *step) {
  *step = LAB_SPAWN_FORK;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  pid_t parent = getpid();
  pid_t child = fork();
  if (child < 0) {
    int number = errno;
    close(ends[0]);
    close(ends[1]);
    return number;
  }
  if (child == 0) become(request, ends[1], parent);
  close(ends[1]);
  // Also here, so that the group exists when this returns whoever ran first.
  setpgid(child, child);
  struct failure failure = {0, 0};
  ssize_t count;
  do count = read(ends[0], &failure, sizeof failure);
  while (count < 0 && errno == EINTR);
  close(ends[0]);
  if (count == (ssize_t)sizeof failure) {
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
    *step = failure.step;
    return failure.number == 0 ? EIO : failure.number;
  }
  *pid = child;
  return 0;
}

// PR_SET_PDEATHSIG counts from the end of the *thread* that forked, so one thread that never ends does all forking.
static struct {
  pthread_mutex_t callers, lock;
  pthread_cond_t asked, answered;
  const struct lab_spawn_request *request;
  pid_t pid;
  int step, result;
  bool done;
} spawner = {.callers = PTHREAD_MUTEX_INITIALIZER,
             .lock = PTHREAD_MUTEX_INITIALIZER,
             .asked = PTHREAD_COND_INITIALIZER,
             .answered = PTHREAD_COND_INITIALIZER};

static void *spawn_for_others(void *unused) {
  (void)unused;
  pthread_mutex_lock(&spawner.lock);
  for (;;) {
    while (spawner.request == NULL) pthread_cond_wait(&spawner.asked, &spawner.lock);
    spawner.result = spawn_here(spawner.request, &spawner.pid, &spawner.step);
    spawner.request = NULL;
    spawner.done = true;
    pthread_cond_signal(&spawner.answered);
  }
  return NULL;
}

struct start {
  void (*body)(void *);
  void *context;
};

static void *run_start(void *argument) {
  struct start start = *(struct start *)argument;
  free(argument);
  start.body(start.context);
  return NULL;
}

// New threads block every signal, so that handlers run on threads that expect it.
static int create_quiet_thread(pthread_t *thread, void *(*body)(void *), void *context) {
  sigset_t all, before;
  sigfillset(&all);
  // The signals of faults stay as they are: a crash must still be reported.
  sigdelset(&all, SIGSEGV);
  sigdelset(&all, SIGBUS);
  sigdelset(&all, SIGILL);
  sigdelset(&all, SIGTRAP);
  sigdelset(&all, SIGFPE);
  sigdelset(&all, SIGABRT);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int result = pthread_create(thread, NULL, body, context);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return result;
}

int lab_start_thread(void (*body)(void *), void *context) {
  struct start *start = malloc(sizeof *start);
  if (start == NULL) return ENOMEM;
  *start = (struct start){body, context};
  pthread_t thread;
  int result = create_quiet_thread(&thread, run_start, start);
  if (result != 0) {
    free(start);
    return result;
  }
  pthread_detach(thread);
  return 0;
}

static int spawner_failure;
static void start_spawner(void) {
  pthread_t thread;
  spawner_failure = create_quiet_thread(&thread, spawn_for_others, NULL);
  if (spawner_failure == 0) pthread_detach(thread);
}

int lab_spawn(const struct lab_spawn_request *request, pid_t *pid, int *step) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, start_spawner);
  *step = LAB_SPAWN_FORK;
  if (spawner_failure != 0) return spawner_failure;
  pthread_mutex_lock(&spawner.callers);
  pthread_mutex_lock(&spawner.lock);
  spawner.request = request;
  spawner.done = false;
  pthread_cond_signal(&spawner.asked);
  while (!spawner.done) pthread_cond_wait(&spawner.answered, &spawner.lock);
  int result = spawner.result;
  *step = spawner.step;
  *pid = spawner.pid;
  pthread_mutex_unlock(&spawner.lock);
  pthread_mutex_unlock(&spawner.callers);
  return result;
}

// --- Waiting --------------------------------------------------------------------------------------------------------

int lab_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0U); }

int lab_pidfd_signal(int pidfd, int signal) {
  return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0U);
}

static int64_t now_milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int lab_poll(int fd, short events, int64_t milliseconds) {
  int64_t end = now_milliseconds() + milliseconds;
  for (;;) {
    int64_t left = end - now_milliseconds();
    if (left < 0) left = 0;
    if (left > 1000000000) left = 1000000000;
    struct pollfd entry = {.fd = fd, .events = events};
    int count = poll(&entry, 1, (int)left);
    if (count > 0) return 1;
    if (count < 0 && errno != EINTR) return -1;
    if (count == 0 && left == 0) return 0;
  }
}

int lab_reap(pid_t pid, int *status) {
  pid_t result;
  do result = waitpid(pid, status, WNOHANG);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -1 : result == pid;
}

// --- Namespaces -----------------------------------------------------------------------------------------------------

struct visit {
  const char *netns;
  void (*body)(void *);
  void *context;
  int result;
};

static void *visit_netns(void *argument) {
  struct visit *visit = argument;
  int fd = open(visit->netns, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    visit->result = errno;
    return NULL;
  }
  visit->result = setns(fd, CLONE_NEWNET) == 0 ? 0 : errno;
  close(fd);
  if (visit->result == 0) visit->body(visit->context);
  return NULL;
}

int lab_run_in_netns(const char *netns, void (*body)(void *), void *context) {
  struct visit visit = {netns, body, context, 0};
  pthread_t thread;
  int result = create_quiet_thread(&thread, visit_netns, &visit);
  if (result != 0) return result;
  pthread_join(thread, NULL);
  return visit.result;
}

static void *try_unshare(void *result) {
  *(int *)result = unshare(CLONE_NEWNET) == 0 ? 0 : errno;
  return NULL;
}

int lab_try_new_netns(void) {
  int answer = 0;
  pthread_t thread;
  int result = create_quiet_thread(&thread, try_unshare, &answer);
  if (result != 0) return result;
  pthread_join(thread, NULL);
  return answer;
}

int lab_remove_netns(const char *path) {
  if (umount2(path, MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT) return errno;
  if (unlink(path) != 0 && errno != ENOENT) return errno;
  return 0;
}

// --- Signals --------------------------------------------------------------------------------------------------------

static int signal_pipe = -1;

static void note_signal(int number) {
  int before = errno;
  unsigned char byte = (unsigned char)number;
  ssize_t ignored = write(signal_pipe, &byte, 1);
  (void)ignored;
  errno = before;
}

int lab_catch_signals(void) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
  signal_pipe = ends[1];
  int numbers[] = {SIGINT, SIGTERM, SIGHUP};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction action;
    if (sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    memset(&action, 0, sizeof action);
    action.sa_handler = note_signal;
    action.sa_flags = SA_RESTART;
    sigaction(numbers[i], &action, NULL);
  }
  return ends[0];
}

// --- Files ----------------------------------------------------------------------------------------------------------

int lab_memfd(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

int lab_fill(int fd, size_t count, uint64_t seed) {
  if (ftruncate(fd, (off_t)count) != 0) return errno;
  enum { words = 8192 };
  uint64_t block[words];
  uint64_t state = seed;
  for (size_t done = 0; done < count;) {
    for (size_t i = 0; i < words; i++) {
      // SplitMix64 (Steele, Lea and Flood, 2014).
      uint64_t z = (state += 0x9e3779b97f4a7c15u);
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      block[i] = z ^ (z >> 31);
    }
    size_t part = count - done < sizeof block ? count - done : sizeof block;
    ssize_t written = pwrite(fd, block, part, (off_t)done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : EIO;
    done += (size_t)written;
  }
  return 0;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
  (void)status, (void)kind, (void)place;
  return remove(path) != 0 && errno != ENOENT ? errno : 0;
}

int lab_remove_tree(const char *path) {
  int result = nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
  if (result < 0) return errno == ENOENT ? 0 : errno;
  return result;
}

int lab_lock_file(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return -1;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  int number = errno;
  close(fd);
  errno = number;
  return -1;
}

// --- Sockets --------------------------------------------------------------------------------------------------------

union any_address {
  struct sockaddr plain;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
};

static socklen_t fill_address(union any_address *any, int family, const uint8_t *address, uint16_t port) {
  memset(any, 0, sizeof *any);
  if (family == AF_INET) {
    any->v4.sin_family = AF_INET;
    any->v4.sin_port = htons(port);
    if (address != NULL) memcpy(&any->v4.sin_addr, address, 4);
    return sizeof any->v4;
  }
  any->v6.sin6_family = AF_INET6;
  any->v6.sin6_port = htons(port);
  if (address != NULL) memcpy(&any->v6.sin6_addr, address, 16);
  return sizeof any->v6;
}

static int close_with_errno(int fd) {
  int number = errno;
  close(fd);
  errno = number;
  return -1;
}

int lab_listen(int family, uint16_t port, uint16_t *chosen) {
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
  if (fd < 0) return -1;
  int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  union any_address any;
  socklen_t length = fill_address(&any, family, NULL, port);
  if (bind(fd, &any.plain, length) != 0 || listen(fd, 16) != 0) return close_with_errno(fd);
  length = sizeof any;
  if (getsockname(fd, &any.plain, &length) != 0) return close_with_errno(fd);
  *chosen = ntohs(family == AF_INET ? any.v4.sin_port : any.v6.sin6_port);
  return fd;
}

int lab_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

int lab_connect(int family, const uint8_t *address, uint16_t port) {
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
  if (fd < 0) return -1;
  union any_address any;
  socklen_t length = fill_address(&any, family, address, port);
  if (connect(fd, &any.plain, length) != 0 && errno != EINPROGRESS) return close_with_errno(fd);
  return fd;
}

int lab_socket_error(int fd) {
  int number = 0;
  socklen_t length = sizeof number;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &length) == 0 ? number : errno;
}

int lab_tcp_info(int fd, struct lab_tcp_info *info) {
  struct tcp_info kernel;
  memset(&kernel, 0, sizeof kernel);
  socklen_t length = sizeof kernel;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &kernel, &length) != 0) return -1;
  info->retransmitted_segments = kernel.tcpi_total_retrans;
  info->send_segment_size = kernel.tcpi_snd_mss;
  info->path_mtu = kernel.tcpi_pmtu;
  info->round_trip_microseconds = kernel.tcpi_rtt;
  return 0;
}

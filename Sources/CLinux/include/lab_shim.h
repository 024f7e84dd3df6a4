#pragma once
// Processes, namespaces and sockets for the room `Lab`: what has to happen between fork and exec, on a thread of its
// own, or inside a signal handler, where Swift must not run.

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// What a child is made from. Every pointer is borrowed for the call.
struct lab_spawn_request {
  /// The program's path; it is not searched for.
  const char *_Nonnull path;
  /// Arguments and environment, each ended by NULL.
  char *_Nullable const *_Nonnull argv;
  char *_Nullable const *_Nonnull envp;
  /// The file of the network namespace to run in, or NULL to stay in the caller's. As `ip netns exec` does, the child
  /// gets a mount namespace of its own in which /sys shows that namespace's devices.
  const char *_Nullable netns;
  /// What the child finds as its descriptors 0, 1 and 2; it inherits no other.
  int standard_input, standard_output, standard_error;
};

/// The step of lab_spawn that failed.
enum lab_spawn_step {
  LAB_SPAWN_FORK = 0,
  LAB_SPAWN_OPEN_NAMESPACE = 1,
  LAB_SPAWN_ENTER_NAMESPACE = 2,
  LAB_SPAWN_MOUNT = 3,
  LAB_SPAWN_DESCRIPTORS = 4,
  LAB_SPAWN_EXEC = 5,
};

/// Starts a program in a process group of its own that the kernel ends with SIGKILL when this process ends, however
/// it ends. Returns 0, or the errno of the step stored in `step`.
int lab_spawn(const struct lab_spawn_request *_Nonnull request, pid_t *_Nonnull pid, int *_Nonnull step);

/// A descriptor that becomes readable when process `pid` ends; -1 with errno.
int lab_pidfd_open(pid_t pid);
/// Signals the process behind a descriptor of lab_pidfd_open; 0, or -1 with errno.
int lab_pidfd_signal(int pidfd, int signal);
/// Waits until `fd` reports one of `events`: 1, 0 when `milliseconds` have passed, -1 with errno. EINTR is hidden.
int lab_poll(int fd, short events, int64_t milliseconds);
/// Collects the status of a child that has ended: 1, 0 while it runs, -1 with errno.
int lab_reap(pid_t pid, int *_Nonnull status);

/// Runs `body` on a new thread inside the network namespace of file `netns`, and returns when it has. 0 or errno.
int lab_run_in_netns(const char *_Nonnull netns, void (*_Nonnull body)(void *_Nullable), void *_Nullable context);
/// Runs `body` on a new detached thread with every signal blocked. 0 or errno.
int lab_start_thread(void (*_Nonnull body)(void *_Nullable), void *_Nullable context);
/// Whether this process may make network namespaces: 0, or the errno of trying on a thread that ends at once.
int lab_try_new_netns(void);

/// Makes SIGINT, SIGTERM and SIGHUP write their number, one byte, into a pipe. Those that are ignored stay ignored.
/// Returns the descriptor to read from, or -1 with errno.
int lab_catch_signals(void);

/// An anonymous file in memory, closed on exec; -1 with errno.
int lab_memfd(const char *_Nonnull name);
/// Fills the first `count` bytes of a memory file with a pseudo-random stream; 0 or errno.
int lab_fill(int fd, size_t count, uint64_t seed);
/// Removes a file or a folder with all it holds; symbolic links are not followed. 0 or errno.
int lab_remove_tree(const char *_Nonnull path);
/// Takes the mount off a namespace's file and removes the file; 0 or errno.
int lab_remove_netns(const char *_Nonnull path);
/// Takes an exclusive lock on a file, made if it is not there. Returns the descriptor that holds it; -1 with errno,
/// EWOULDBLOCK when another process holds it.
int lab_lock_file(const char *_Nonnull path);

/// A TCP socket listening on [::]:port or 0.0.0.0:port (port 0: the kernel chooses) and stores the port; -1 with errno.
int lab_listen(int family, uint16_t port, uint16_t *_Nonnull chosen);
/// Accepts one connection, non-blocking; -1 with errno.
int lab_accept(int fd);
/// Begins to connect a non-blocking TCP socket to `address` (4 or 16 octets in network order); -1 with errno.
int lab_connect(int family, const uint8_t *_Nonnull address, uint16_t port);
/// The pending error of a socket, 0 when there is none.
int lab_socket_error(int fd);

/// What the kernel says about a TCP connection (TCP_INFO).
struct lab_tcp_info {
  uint32_t retransmitted_segments;
  uint32_t send_segment_size;
  uint32_t path_mtu;
  uint32_t round_trip_microseconds;
};
/// 0, or -1 with errno.
int lab_tcp_info(int fd, struct lab_tcp_info *_Nonnull info);

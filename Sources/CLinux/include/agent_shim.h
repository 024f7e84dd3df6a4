#pragma once
// What the agent needs of Linux: threads, signals, its socket, and the service manager.
#include <stdint.h>

/// Runs `body` on a new detached thread with every signal blocked. 0 or errno. `name` has at most 15 characters.
int kalsae_thread_start(const char *_Nonnull name, void (*_Nonnull body)(void *_Nullable), void *_Nullable context);
/// Binds the calling thread to one processor. 0 or a negated errno.
int kalsae_thread_pin(int processor);
/// The processors that this process may use: their numbers, at most `capacity`. How many, or a negated errno.
int kalsae_processors(int *_Nonnull numbers, int capacity);
/// Tells the processor that this is a waiting loop.
static inline void kalsae_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
/// Nanoseconds of the monotonic clock.
uint64_t kalsae_monotonic(void);
/// Nanoseconds since 1970.
uint64_t kalsae_realtime(void);

/// Blocks SIGINT, SIGTERM and SIGHUP in the calling thread (and those it starts later) and gives a descriptor that they
/// are read from. Negated errno on failure.
int kalsae_signals_open(void);
/// The next signal that came, 0 when there is none.
int kalsae_signals_next(int descriptor);

/// Takes a lock on the file `path` (made where it is not there) that ends with the process. The descriptor, or
/// -EWOULDBLOCK where another process has it, or another negated errno.
int kalsae_lock(const char *_Nonnull path);
/// A listening stream socket at `path`, mode 0600; what lies there is removed. The descriptor or a negated errno.
int kalsae_unix_listen(const char *_Nonnull path);
/// The next connection, non-blocking, and who made it; -EAGAIN when there is none.
int kalsae_unix_accept(int descriptor, uint32_t *_Nonnull user);
/// A connection to the socket at `path`, with time-outs for reading and writing. The descriptor or a negated errno.
int kalsae_unix_connect(const char *_Nonnull path, int seconds);
/// Sends what fits without blocking and without SIGPIPE. How much, or a negated errno.
long kalsae_unix_send(int descriptor, const void *_Nonnull data, unsigned long length);

/// Sends one octet, a space, with descriptors, at most KALSAE_DESCRIPTORS. 0 or a negated errno.
int kalsae_send_descriptors(int socket, const int *_Nonnull descriptors, int count);
#define KALSAE_DESCRIPTORS 250
/// Reads what has come, with the descriptors that came along; `*count` is how many, `descriptors` has room for
/// KALSAE_DESCRIPTORS. The number of octets, 0 at the end, or a negated errno.
long kalsae_receive_descriptors(
    int socket, void *_Nonnull buffer, unsigned long capacity, int *_Nonnull descriptors, int *_Nonnull count);

/// Sends a datagram to the socket of the service manager at `path` (`@` begins an abstract name). 0 or a negated errno.
int kalsae_notify(const char *_Nonnull path, const char *_Nonnull message);

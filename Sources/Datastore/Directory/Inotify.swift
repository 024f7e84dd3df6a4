import CLinux
import Glibc

/// The system calls of inotify(7).
struct Inotify {
  private let descriptor: Int32

  /// What can change the set of manifests or their contents.
  private static let mask = UInt32(
    IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF
      | IN_MOVE_SELF | IN_ONLYDIR)

  init() throws(SystemError) {
    descriptor = inotify_init1(Int32(IN_CLOEXEC | IN_NONBLOCK))
    guard descriptor >= 0 else { throw .last }
  }

  func close() { _ = Glibc.close(descriptor) }

  /// Watches a directory. Watching it twice gives the same number, unless another directory has taken its place.
  func watch(_ path: String) throws(SystemError) -> Int32 {
    let watch = unsafe inotify_add_watch(descriptor, path, Self.mask)
    guard watch >= 0 else { throw .last }
    return watch
  }

  func unwatch(_ watch: Int32) { _ = inotify_rm_watch(descriptor, watch) }

  /// Throws all waiting events away: any of them only says that it is time to look.
  func drain() {
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    // A directory that changes without end must not keep the thread here.
    for _ in 0..<64 where unsafe read(descriptor, &buffer, buffer.count) <= 0 { return }
  }

  enum Wakeup { case change, stop, timeout }

  /// Waits for a change, for the alarm, or for the time to pass.
  func wait(orFor alarm: Alarm, milliseconds: Int) -> Wakeup {
    var descriptors = [
      pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: alarm.descriptor, events: Int16(POLLIN), revents: 0),
    ]
    guard unsafe poll(&descriptors, 2, Int32(clamping: milliseconds)) > 0 else { return .timeout }
    if descriptors[1].revents != 0 { return .stop }
    return descriptors[0].revents != 0 ? .change : .timeout
  }
}

/// A descriptor that wakes the thread that waits for it (eventfd(2)).
struct Alarm {
  let descriptor: Int32

  init() throws(SystemError) {
    descriptor = kalsae_wake_descriptor()
    guard descriptor >= 0 else { throw .last }
  }

  func ring() {
    var count: UInt64 = 1
    while unsafe write(descriptor, &count, 8) < 0 && errno == EINTR {}
  }

  func close() { _ = Glibc.close(descriptor) }
}

/// A thread of the system that can be waited for.
struct Thread: Sendable {
  private let thread: pthread_t

  private final class Body: Sendable {
    let run: @Sendable () -> Void

    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  /// Starts a thread. Its stack suffices for the deepest nesting that a YAML parser accepts.
  init(named name: String, _ run: @escaping @Sendable () -> Void) throws(SystemError) {
    var attributes = pthread_attr_t()
    unsafe pthread_attr_init(&attributes)
    defer { unsafe _ = pthread_attr_destroy(&attributes) }
    unsafe pthread_attr_setstacksize(&attributes, 8 << 20)
    let named: @Sendable () -> Void = {
      unsafe kalsae_name_thread(name)
      run()
    }
    let body = unsafe Unmanaged.passRetained(Body(named))
    var thread = pthread_t()
    let result = unsafe pthread_create(
      &thread, &attributes,
      { argument in
        unsafe Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, body.toOpaque())
    guard result == 0 else {
      unsafe body.release()
      throw SystemError(code: result)
    }
    self.thread = thread
  }

  var isCurrent: Bool { pthread_equal(thread, pthread_self()) != 0 }

  /// Waits for the end of the thread. To be called once.
  func join() { _ = pthread_join(thread, nil) }

  /// Lets the thread end without anybody waiting for it.
  func detach() { _ = pthread_detach(thread) }
}

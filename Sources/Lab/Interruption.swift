import CLinux
import Glibc
import Synchronization

/// SIGINT, SIGTERM and SIGHUP in a process that has labs: all labs are cleaned up on an ordinary thread, then the
/// process exits with 128 and the signal's number.
public enum Interruption {
  private struct State {
    var isWatching = false
    var notice: (@Sendable (Int32) -> Void)?
  }
  private static let state = Mutex(State())
  private static let number = Atomic<Int32>(0)

  /// What to do first when a signal has come, such as telling the user that cleaning up takes a moment. Runs on an
  /// ordinary thread.
  public static func onSignal(_ notice: @escaping @Sendable (_ signal: Int32) -> Void) {
    state.withLock { $0.notice = notice }
  }

  /// Whether a signal has come and the process is about to exit.
  public static var hasCome: Bool { number.load(ordering: .acquiring) != 0 }

  /// Blocks the calling thread for good once a signal has come: what fails from then on fails because the lab is being
  /// taken down, and the exit status belongs to the signal.
  static func holdIfInterrupted() {
    guard hasCome else { return }
    while true { _ = sleep(1000) }
  }

  /// Blocks until a signal ends the process: for a lab that is to stand until its user has seen enough.
  public static func wait() -> Never {
    while true { _ = sleep(1000) }
  }

  static func watch() throws {
    try state.withLock { state in
      guard !state.isWatching else { return }
      let reader = try Descriptor(lab_catch_signals(), "pipe2")
      state.isWatching = true
      try startThread {
        while true {
          guard (try? reader.wait(for: POLLIN, until: Deadline(after: .seconds(3600)))) == true else { continue }
          var byte: UInt8 = 0
          guard unsafe read(reader.number, &byte, 1) == 1 else { continue }
          end(by: Int32(byte))
        }
      }
    }
  }

  private static func end(by signal: Int32) -> Never {
    number.store(signal, ordering: .releasing)
    state.withLock { $0.notice }?(signal)
    Registry.cleanUpAll()
    fflush(nil)
    _exit(128 + signal)
  }
}

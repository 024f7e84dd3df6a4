import CLinux
import Glibc

/// The processor's own count of this thread's instructions in user space. Many virtual machines have none.
final class InstructionCounter {
  private let descriptor: Int32

  /// Nil where the machine or the kernel's settings do not let the process count.
  init?() {
    descriptor = kalsae_instructions_open()
    guard descriptor >= 0 else { return nil }
  }

  deinit { close(descriptor) }

  func start() { kalsae_instructions_run(descriptor, 1) }
  func stop() { kalsae_instructions_run(descriptor, 0) }

  /// The instructions between all calls of `start` and `stop` so far.
  var value: UInt64 { kalsae_instructions_read(descriptor) }
}

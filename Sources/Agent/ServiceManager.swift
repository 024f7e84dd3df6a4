import CLinux
import Glibc

/// Tells systemd how the agent is (sd_notify(3)); does nothing where nobody asked.
struct ServiceManager {
  private let socket: String?

  init() {
    socket = unsafe getenv("NOTIFY_SOCKET").map { unsafe String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
  }

  /// `READY=1`, `STATUS=…`, `STOPPING=1`; several in lines.
  func notify(_ message: String) {
    guard let socket else { return }
    _ = unsafe kalsae_notify(socket, message)
  }
}

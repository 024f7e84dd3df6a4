import Replay

/// An error of a command: one line for people, an exit status for scripts (sysexits.h).
struct Failure: Error {
  enum Status: Int32 {
    case difference = 1
    case usage = 64
    case data = 65
    case missing = 66
    case unavailable = 69
    case software = 70
    case io = 74
    case running = 75
    case permission = 77
    case interrupted = 130
  }

  var status: Status
  /// Names the file, field or device, and what to do.
  var message: String

  init(_ status: Status, _ message: String) {
    self.status = status
    self.message = message
  }

  init(_ error: ReplayError) {
    let status: Status =
      switch error.kind {
      case .usage: .usage
      case .data: .data
      case .missing: .missing
      case .io: .io
      case .permission: .permission
      case .interrupted: .interrupted
      }
    self.init(status, error.message)
  }
}

/// Runs `body` and turns its error into the command's.
func reporting<R>(_ body: () throws(ReplayError) -> R) throws(Failure) -> R {
  do { return try body() } catch { throw Failure(error) }
}

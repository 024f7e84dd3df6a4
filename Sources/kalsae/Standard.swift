import Glibc

/// The standard streams, and whether people read them.
enum Standard {
  static var errorIsTerminal: Bool { isatty(2) == 1 }
  static var outputIsTerminal: Bool { isatty(1) == 1 }

  static func error(_ text: String) { _ = write(text, to: 2) }

  /// Writes all of `text`. A closed pipe ends the program quietly, as it does `tcpdump`.
  static func output(_ text: String) throws(Failure) {
    let code = write(text, to: 1)
    if code != 0 { throw Failure(.io, "cannot write to standard output: \(unsafe String(cString: strerror(code)))") }
  }

  private static func write(_ text: String, to descriptor: Int32) -> Int32 {
    var text = text
    return text.withUTF8 { bytes in
      var done = 0
      while done < bytes.count {
        let count = unsafe Glibc.write(descriptor, bytes.baseAddress! + done, bytes.count - done)
        if count < 0 {
          if errno == EINTR { continue }
          return errno
        }
        done += count
      }
      return 0
    }
  }
}

/// A line on stderr that shows how far long work has come; silent where nobody watches.
struct ProgressLine {
  private let isShown = Standard.errorIsTerminal
  private let start = ContinuousClock.now
  private var last: ContinuousClock.Instant?
  private var width = 0

  /// Seconds since the work began.
  var seconds: Double {
    let elapsed = (ContinuousClock.now - start).components
    return Double(elapsed.seconds) + Double(elapsed.attoseconds) / 1e18
  }

  /// Shows what `text` says, five times a second at most.
  mutating func show(_ text: (_ seconds: Double) -> String) {
    guard isShown else { return }
    let now = ContinuousClock.now
    if let last, now - last < .milliseconds(200) { return }
    last = now
    let line = text(seconds)
    Standard.error("\r" + line + String(repeating: " ", count: max(0, width - line.count)))
    width = line.count
  }

  /// Takes the line away again.
  mutating func clear() {
    guard width > 0 else { return }
    Standard.error("\r" + String(repeating: " ", count: width) + "\r")
    width = 0
  }
}

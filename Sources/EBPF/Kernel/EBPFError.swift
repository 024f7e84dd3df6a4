import Glibc

/// Why something of the kernel's programs could not be done: what, why, and what to do about it.
public struct EBPFError: Error, CustomStringConvertible {
  public var what: String
  /// An error number of the system; 0: none.
  public var code: Int32
  public var hint: String

  public init(_ what: String, code: Int32 = 0, hint: String = "") {
    self.what = what
    self.code = code
    self.hint = hint
  }

  public var description: String {
    (code == 0 ? what : "\(what): \(errorText(code))") + (hint.isEmpty ? "" : "; \(hint)")
  }
}

/// The system's words for an error number.
func errorText(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }

/// The result of a function that gives a negated error number on failure.
@discardableResult
func check(_ result: Int32, _ what: @autoclosure () -> String, hint: String = "") throws(EBPFError) -> Int32 {
  if result < 0 {
    throw EBPFError(
      what(), code: -result,
      hint: -result == EPERM || -result == EACCES ? "this needs root (CAP_BPF, CAP_NET_ADMIN)" : hint)
  }
  return result
}

/// A file descriptor of ours.
final class Descriptor {
  let number: Int32
  init(_ number: Int32) { self.number = number }
  deinit { close(number) }
}

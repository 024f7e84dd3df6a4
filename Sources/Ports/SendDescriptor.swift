import Glibc

/// What the sending half of a port writes to: the port's own descriptor, or a copy of it that goes with the half.
struct SendDescriptor: ~Copyable {
  let number: Int32
  private let isCopy: Bool

  /// The port's own, which the port closes.
  init(of number: Int32) { (self.number, isCopy) = (number, false) }

  /// A copy. nil: no descriptor is left.
  init?(copying number: Int32) {
    let copy = fcntl(number, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0 else { return nil }
    (self.number, isCopy) = (copy, true)
  }

  deinit { if isCopy { close(number) } }
}

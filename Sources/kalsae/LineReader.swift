import Glibc

/// Reads a file, or standard input, line by line in bounded memory.
final class LineReader {
  private static let longestLine = 1 << 20
  private let path: String
  private let descriptor: Int32
  private var buffer: [UInt8] = []
  private var start = 0
  private var isAtEnd = false

  /// `-` is standard input.
  init(_ path: String) throws(Failure) {
    self.path = path
    if path == "-" {
      descriptor = 0
      return
    }
    descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
    if descriptor < 0 {
      let code = errno
      throw Failure(code == EACCES ? .permission : .missing, "\(path): cannot be opened: \(LineReader.text(code))")
    }
  }

  deinit { if descriptor > 0 { close(descriptor) } }

  /// Whether the other side may wait for an answer before it writes the next line: a terminal, pipe or socket.
  var isInteractive: Bool {
    var status = stat()
    return unsafe fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT != S_IFREG && start == buffer.count
  }

  /// The next line without its end; nil at the end.
  func next() throws(Failure) -> ArraySlice<UInt8>? {
    var searched = start
    while true {
      if let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
        defer { start = end + 1 }
        return buffer[start..<end]
      }
      if isAtEnd {
        defer { start = buffer.count }
        return start < buffer.count ? buffer[start...] : nil
      }
      guard buffer.count - start <= LineReader.longestLine else {
        throw Failure(.data, "\(path): a line is longer than \(LineReader.longestLine) octets; write one object a line")
      }
      buffer.removeFirst(start)
      start = 0
      searched = buffer.count
      try fill()
    }
  }

  private func fill() throws(Failure) {
    let size = 1 << 16
    let before = buffer.count
    buffer.append(contentsOf: repeatElement(0, count: size))
    var count = 0
    repeat {
      count = unsafe buffer.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress! + before, size) }
    } while count < 0 && errno == EINTR
    let code = errno
    buffer.removeLast(size - max(count, 0))
    if count < 0 { throw Failure(.io, "\(path): cannot be read: \(LineReader.text(code))") }
    if count == 0 { isAtEnd = true }
  }

  private static func text(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }
}

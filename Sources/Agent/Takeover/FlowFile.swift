import CLinux
import Dataplane
import Glibc

/// The files in which an agent that ends as it is told to leaves its flows, and the frames that waited, to the next one.
enum FlowFile {
  enum Content: String { case flows, frames }

  private static func path(_ content: Content, _ dataDirectory: String) -> String {
    "\(dataDirectory)/\(content.rawValue)"
  }

  /// A file in memory with these octets; -1 where there can be none.
  static func inMemory(_ octets: [UInt8]) -> Int32 {
    let file = unsafe lab_memfd("kalsae-flows")
    guard file >= 0 else { return -1 }
    if !write(octets, to: file) { _ = ftruncate(file, 0) }
    return file
  }

  static func readAll(_ file: Int32) -> [UInt8] {
    let length = Int(lseek(file, 0, SEEK_END))
    guard length > 0, lseek(file, 0, SEEK_SET) == 0 else { return [] }
    var result = [UInt8](repeating: 0, count: length)
    var done = 0
    while done < length {
      let count = unsafe result.withUnsafeMutableBytes {
        unsafe Glibc.read(file, $0.baseAddress! + done, length - done)
      }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return [] }
      done += count
    }
    return result
  }

  private static func write(_ octets: [UInt8], to file: Int32) -> Bool {
    var done = 0
    while done < octets.count {
      let count = unsafe octets.withUnsafeBytes { unsafe Glibc.write(file, $0.baseAddress! + done, $0.count - done) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return false }
      done += count
    }
    return true
  }

  /// Writes the file whole, and then gives it its name.
  static func save(_ octets: [UInt8], as content: Content, in dataDirectory: String) -> Bool {
    let hidden = "\(dataDirectory)/.\(content.rawValue)"
    let file = unsafe open(hidden, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard file >= 0 else { return false }
    let isWritten = write(octets, to: file)
    close(file)
    guard isWritten else { return false }
    return unsafe rename(hidden, path(content, dataDirectory)) == 0
  }

  /// Reads the file and removes it: what it says is true once.
  static func take(_ content: Content, from dataDirectory: String) -> [UInt8] {
    let path = path(content, dataDirectory)
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return [] }
    defer { close(file) }
    _ = unsafe unlink(path)
    return readAll(file)
  }
}

extension Agent {
  /// Enters the flows of the agent before this one: those that it handed over, or left at its end.
  func restoreFlows(_ handed: [UInt8]) {
    let octets = handed.isEmpty ? FlowFile.take(.flows, from: configuration.dataDirectory) : handed
    guard !octets.isEmpty else { return }
    let outcome = dataPath.change { tables in
      workers.lane.withPipeline {
        $0.restoreFlows(octets, tables, owner: AttachmentStore.boot, at: kalsae_monotonic())
      }
    }
    guard let outcome else {
      log.notice("the flows of the agent before are of another version or of another start of the machine: left out")
      return
    }
    log.info("\(outcome.restored) flows go on, \(outcome.lost) could not")
  }

  /// Leaves the flows to the next agent.
  func saveFlows() {
    let octets = dataPath.change { tables in
      workers.lane.withPipeline {
        $0.syncOffload()
        return $0.saveFlows(tables, owner: AttachmentStore.boot)
      }
    }
    if !FlowFile.save(octets, as: .flows, in: configuration.dataDirectory) {
      log.warning("the flows cannot be saved in \(configuration.dataDirectory): \(systemErrorText(errno))")
    }
  }
}

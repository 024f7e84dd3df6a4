import CNI
import Glibc
import IPAM
import Synchronization

/// The attachments of this node: in memory, and each in a file of its own, written whole and then renamed, so that a
/// process that is killed leaves the old or the new one. None outlives the machine's start, so that nothing is synced
/// to the disk: after a loss of power there is nothing to adopt.
final class AttachmentStore: Sendable {
  let folder: String
  private let records = Mutex<[Attachment: AttachmentRecord]>([:])

  /// Reads what is there. Files that cannot be read are named in `problems` and left alone.
  init(dataDirectory: String) throws(AgentError) {
    folder = dataDirectory + "/attachments"
    if let refused = Folders.make(folder, mode: 0o700) {
      throw AttachmentStore.failure("make the folder \(refused)", errno)
    }
    var found: [Attachment: AttachmentRecord] = [:]
    var problems: [String] = []
    for name in Folders.names(in: folder) ?? [] {
      let path = "\(folder)/\(name)"
      if name.hasPrefix(".") {
        // Begun by a process that was killed.
        _ = unsafe unlink(path)
        continue
      }
      guard let octets = AttachmentStore.read(path), let json = try? JSON(parsing: octets),
        let record = AttachmentRecord(json)
      else {
        problems.append(path)
        continue
      }
      found[record.attachment] = record
    }
    self.problems = problems
    records.withLock { $0 = found }
  }

  /// The files that are no records.
  let problems: [String]

  var all: [AttachmentRecord] { records.withLock { $0.values.sorted { $0.attachment < $1.attachment } } }

  subscript(attachment: Attachment) -> AttachmentRecord? { records.withLock { $0[attachment] } }

  /// Keeps a record; when this returns it survives the end of the process.
  func put(_ record: AttachmentRecord) throws(AgentError) {
    let path = path(record.attachment)
    let hidden = "\(folder)/.\(path.split(separator: "/").last!)"
    let octets = Array((record.json.serialized + "\n").utf8)
    let file = unsafe open(hidden, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw AttachmentStore.failure("create \(hidden)", errno) }
    let count = unsafe octets.withUnsafeBytes { unsafe write(file, $0.baseAddress, $0.count) }
    let code = count == octets.count ? 0 : count < 0 ? errno : ENOSPC
    close(file)
    guard code == 0 else {
      _ = unsafe unlink(hidden)
      throw AttachmentStore.failure("write \(hidden)", code)
    }
    guard unsafe rename(hidden, path) == 0 else { throw AttachmentStore.failure("rename \(hidden)", errno) }
    records.withLock { $0[record.attachment] = record }
  }

  func remove(_ attachment: Attachment) {
    _ = unsafe unlink(path(attachment))
    records.withLock { $0[attachment] = nil }
  }

  /// Names are bounded, and different for different attachments.
  private func path(_ attachment: Attachment) -> String {
    let text = "\(attachment.network)/\(attachment.containerID)/\(attachment.interface)"
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for octet in text.utf8 { hash = (hash ^ UInt64(octet)) &* 0x100_0000_01b3 }
    return "\(folder)/\(attachment.containerID.prefix(64))@\(attachment.interface)-\(String(hash, radix: 16)).json"
  }

  private static func failure(_ operation: String, _ code: Int32) -> AgentError {
    AgentError(.failed, "cannot \(operation): \(systemErrorText(code))")
  }

  private static func read(_ path: String) -> [UInt8]? {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    return DeleteSpool.readAll(file)
  }

  /// What tells one start of the machine from another.
  static let boot: String = {
    guard let octets = read("/proc/sys/kernel/random/boot_id") else { return "" }
    return String(decoding: octets.prefix { $0 != 0x0a }, as: UTF8.self)
  }()
}

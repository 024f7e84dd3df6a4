import Glibc

/// The DELs that could not be carried out because no agent answered (CNI-4): a file for each, written so that neither
/// the plugin's death nor the machine's loses it. The agent carries them out when it is back.
public struct DeleteSpool: Sendable {
  public let folder: String

  /// `dataDirectory`: where the agent keeps what outlives it.
  public init(dataDirectory: String) { folder = dataDirectory + "/deletes" }

  /// A request that waits, and its file.
  public struct Entry: Sendable {
    public var path: String
    /// nil where the file cannot be read as a request.
    public var request: CNIRequest?
  }

  /// Records a request; when this returns it is on the disk.
  public func add(_ request: CNIRequest) throws(CNIError) -> Entry {
    if let refused = Folders.make(folder, mode: 0o700) {
      throw CNIError(
        .inputOutput, "cannot make the folder \(refused): error \(errno)",
        remedy: "set dataDirectory in the network configuration to a folder that can be written")
    }
    let name = DeleteSpool.name(request)
    let path = "\(folder)/\(name)"
    let hidden = "\(folder)/.\(name).\(getpid())"
    let octets = Array((request.message.serialized + "\n").utf8)
    let file = unsafe open(hidden, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw failure("create \(hidden)", errno) }
    var written = 0
    var code: Int32 = 0
    while written < octets.count, code == 0 {
      let count = unsafe octets.withUnsafeBytes { unsafe write(file, $0.baseAddress! + written, $0.count - written) }
      if count >= 0 { written += count } else if errno != EINTR { code = errno }
    }
    if code == 0, fsync(file) != 0 { code = errno }
    close(file)
    if code == 0, unsafe rename(hidden, path) != 0 { code = errno }
    guard code == 0 else {
      _ = unsafe unlink(hidden)
      throw failure("write \(path)", code)
    }
    // The name is durable once its folder is.
    let directory = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if directory >= 0 {
      fsync(directory)
      close(directory)
    }
    return Entry(path: path, request: request)
  }

  /// Removes what plugins had begun to write when they were killed. Their runtimes ask again.
  public func sweep() {
    for name in Folders.names(in: folder) ?? [] where name.hasPrefix(".") {
      // The name ends with the writer's process, which may still be writing.
      guard let writer = name.split(separator: ".").last.flatMap({ pid_t($0) }), writer > 0,
        kill(writer, 0) != 0, errno == ESRCH
      else { continue }
      _ = unsafe unlink("\(folder)/\(name)")
    }
  }

  /// What waits, in the order of the names.
  public func entries() -> [Entry] {
    (Folders.names(in: folder) ?? []).filter { !$0.hasPrefix(".") }.map { name in
      let path = "\(folder)/\(name)"
      let request = DeleteSpool.read(path).flatMap { octets in
        (try? JSON(parsing: octets)).flatMap { try? CNIRequest(message: $0) }
      }
      return Entry(path: path, request: request)
    }
  }

  /// Forgets a request that was carried out.
  public func remove(_ entry: Entry) { _ = unsafe unlink(entry.path) }

  private func failure(_ operation: String, _ code: Int32) -> CNIError {
    CNIError(
      .tryAgain, "no agent answers, and the DEL cannot be recorded: cannot \(operation): error \(code)",
      remedy: "start the agent with `kalsae run`, or make room in \(folder); the runtime asks again")
  }

  static func name(_ request: CNIRequest) -> String {
    let plain = "\(request.containerID)@\(request.interface)"
    guard plain.utf8.count > 200 else { return plain + ".json" }
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for octet in plain.utf8 { hash = (hash ^ UInt64(octet)) &* 0x100_0000_01b3 }
    return "\(plain.prefix(180))-\(String(hash, radix: 16)).json"
  }

  /// All of a file; nil where it cannot be read or is too long.
  static func read(_ path: String) -> [UInt8]? {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    return readAll(file)
  }

  /// All that a descriptor gives, up to the limit of a configuration and a little more; nil on an error.
  public static func readAll(_ file: Int32) -> [UInt8]? {
    var result: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 16_384)
    while result.count <= NetworkConfiguration.limit + 65_536 {
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress, $0.count) }
      if count < 0, errno == EINTR { continue }
      guard count >= 0 else { return nil }
      if count == 0 { return result }
      result += buffer[..<count]
    }
    return result
  }
}

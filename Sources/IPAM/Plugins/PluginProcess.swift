import CLinux
import Glibc

/// Another program, run once with a text as its input: what it answers is small, and it ends soon.
enum PluginProcess {
  struct Answer {
    /// nil where a signal ended it.
    var status: Int32?
    var output: [UInt8]
    var errors: String
  }

  /// Runs a program. Its end is waited for; after `timeout` it is killed, and that is an error.
  static func run(
    _ path: String, environment: [String: String], input: [UInt8], timeout: Duration
  ) throws(IPAMError) -> Answer {
    let files = try Streams(input: input)
    defer { files.close() }
    let pid = try spawn(path, environment, files)
    let deadline = ContinuousClock.now + timeout
    var status: Int32 = 0
    let descriptor = lab_pidfd_open(pid)
    defer { if descriptor >= 0 { close(descriptor) } }
    let ended =
      descriptor >= 0
      && lab_poll(descriptor, Int16(POLLIN), Int64((deadline - .now) / .milliseconds(1))) == 1
    if !ended { kill(-pid, SIGKILL) }
    // It has ended, or is about to: this does not wait for long.
    while unsafe waitpid(pid, &status, 0) < 0, errno == EINTR {}
    guard ended else {
      throw IPAMError(
        .busy,
        "\(path) did not end within \(timeout / .seconds(1)) s and was killed; try again, and look at what it "
          + "waits for: \(files.text(files.errors))")
    }
    return Answer(
      status: status & 0x7f == 0 ? status >> 8 & 0xff : nil, output: files.octets(files.output),
      errors: files.text(files.errors))
  }

  /// The three standard streams, as files in memory: nobody has to read while the program runs.
  private struct Streams {
    let input: Int32
    let output: Int32
    let errors: Int32

    init(input text: [UInt8]) throws(IPAMError) {
      input = unsafe lab_memfd("ipam plugin input")
      output = unsafe lab_memfd("ipam plugin output")
      errors = unsafe lab_memfd("ipam plugin errors")
      let written = unsafe text.withUnsafeBytes { unsafe pwrite(input, $0.baseAddress, $0.count, 0) }
      guard input >= 0, output >= 0, errors >= 0, written == text.count else {
        close()
        throw IPAMError(.storage, "no memory for running a plugin: \(systemError())")
      }
    }

    func close() {
      for file in [input, output, errors] where file >= 0 { _ = Glibc.close(file) }
    }

    /// What was written, up to a bound that no answer reaches.
    func octets(_ file: Int32) -> [UInt8] {
      var octets = [UInt8](repeating: 0, count: 1 << 20)
      let count = unsafe octets.withUnsafeMutableBytes { unsafe pread(file, $0.baseAddress, $0.count, 0) }
      return Array(octets[..<max(0, count)])
    }

    func text(_ file: Int32) -> String {
      let text = trimmed(String(decoding: octets(file).prefix(2000), as: UTF8.self))
      return text.isEmpty ? "it said nothing" : text
    }
  }

  /// In a process group of its own, with no signal blocked: threads of an agent have them blocked.
  private static func spawn(
    _ path: String, _ environment: [String: String], _ files: Streams
  ) throws(IPAMError) -> pid_t {
    var actions = unsafe posix_spawn_file_actions_t()
    var attributes = posix_spawnattr_t()
    unsafe posix_spawn_file_actions_init(&actions)
    unsafe posix_spawnattr_init(&attributes)
    defer {
      unsafe posix_spawn_file_actions_destroy(&actions)
      unsafe posix_spawnattr_destroy(&attributes)
    }
    for (number, file) in [(Int32(0), files.input), (1, files.output), (2, files.errors)] {
      unsafe posix_spawn_file_actions_adddup2(&actions, file, number)
    }
    var none = sigset_t()
    var all = sigset_t()
    unsafe sigemptyset(&none)
    unsafe sigfillset(&all)
    unsafe posix_spawnattr_setsigmask(&attributes, &none)
    unsafe posix_spawnattr_setsigdefault(&attributes, &all)
    unsafe posix_spawnattr_setpgroup(&attributes, 0)
    unsafe posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP))

    var arguments: [UnsafeMutablePointer<CChar>?] = unsafe [unsafe strdup(path), nil]
    var variables: [UnsafeMutablePointer<CChar>?] = unsafe environment.map { unsafe strdup("\($0.key)=\($0.value)") }
    unsafe variables.append(nil)
    defer {
      for index in unsafe arguments.indices { unsafe free(arguments[index]) }
      for index in unsafe variables.indices { unsafe free(variables[index]) }
    }
    var pid: pid_t = 0
    let code = unsafe posix_spawn(&pid, path, &actions, &attributes, &arguments, &variables)
    guard code == 0 else {
      throw IPAMError(.plugin(code: 105), "cannot run \(path): \(systemError(code)); check the file")
    }
    return pid
  }
}

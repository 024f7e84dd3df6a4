import CLinux
import Glibc
import Synchronization

/// A program that a lab has started and that ends with it at the latest.
///
/// It runs in a process group of its own, and the kernel ends it when this process ends, whatever ends this process.
public final class Child: Sendable {
  public let command: [String]
  public let pid: Int32
  private let pidfd: Descriptor
  private let output: Descriptor
  private let errors: Descriptor
  private let started = ContinuousClock.now
  private let ended: Mutex<ProcessResult.Status?> = Mutex(nil)

  /// Starts a program. `output` and `errors` are files; without them both are kept in memory.
  init(_ command: [String], netns: String?, input: Descriptor?, output: Descriptor?, errors: Descriptor?) throws {
    guard let name = command.first else { throw LabError.invalid("no program to run was named") }
    let path = try Programs.find(name)
    self.command = command
    self.output = try output ?? Files.inMemory("output of \(name)")
    self.errors = try errors ?? Files.inMemory("errors of \(name)")
    let input = try input ?? Descriptor(unsafe open("/dev/null", O_RDONLY | O_CLOEXEC), "open /dev/null")
    pid = try spawnProcess(path, command, netns: netns, input: input, output: self.output, errors: self.errors)
    pidfd = try Descriptor(lab_pidfd_open(pid), "pidfd_open \(pid)")
  }

  /// How the program ended; nil while it runs.
  public var status: ProcessResult.Status? {
    ended.withLock { ended in
      if ended == nil {
        var status: Int32 = 0
        // An error means that somebody else collected it: then it has ended, and how is lost.
        switch unsafe lab_reap(pid, &status) {
        case 1: ended = ProcessResult.Status(waitStatus: status)
        case 0: break
        default: ended = .exited(-1)
        }
      }
      return ended
    }
  }

  public var isRunning: Bool { status == nil }

  /// All that the program has printed so far; with both outputs in one file it is all here.
  public var standardOutput: String { text(output) }
  /// What the program has printed to its second output so far; empty where both go into one file.
  public var standardError: String { output === errors ? "" : text(errors) }

  private func text(_ file: Descriptor) -> String {
    String(decoding: (try? Files.read(file, "output of \(command[0])")) ?? [], as: UTF8.self)
  }

  /// Waits for the program's end. Throws `LabError.timedOut` when that takes too long; the program then goes on.
  public func wait(timeout: Duration = .seconds(30)) throws -> ProcessResult {
    let result = try waitForEnd(timeout)
    Interruption.holdIfInterrupted()
    guard let result else {
      throw LabError.timedOut(what: "`\(command.joined(separator: " "))`", after: timeout)
    }
    return result
  }

  func waitForEnd(_ timeout: Duration) throws -> ProcessResult? {
    let deadline = Deadline(after: timeout)
    while true {
      if let status {
        return ProcessResult(
          command: command, status: status, standardOutput: standardOutput, standardError: standardError,
          duration: started.duration(to: .now))
      }
      if try !pidfd.wait(for: POLLIN, until: deadline) { return nil }
    }
  }

  /// Signals the program alone. Does nothing once it has ended.
  public func signal(_ number: Int32) {
    ended.withLock { if $0 == nil { _ = kill(pid, number) } }
  }

  /// Signals the program and those it has started, unless they have left its process group.
  public func signalGroup(_ number: Int32) {
    // The pid is ours, and so is the group's number, until the status has been collected.
    ended.withLock { if $0 == nil { _ = kill(-pid, number) } }
  }

  /// Asks the program to end, also where it is stopped.
  func askToEnd() {
    signalGroup(SIGTERM)
    signalGroup(SIGCONT)
  }

  /// Ends the program: SIGTERM first, SIGKILL when that has not helped within `patience`. Returns how it ended.
  @discardableResult
  public func terminate(patience: Duration = .seconds(3)) -> ProcessResult? {
    askToEnd()
    if let result = try? waitForEnd(patience) { return result }
    signalGroup(SIGKILL)
    return try? waitForEnd(.seconds(3))
  }
}

import CLinux
import Glibc
import Synchronization

/// The labs of this process, and what labs of processes that died have left behind.
///
/// All that a lab makes outside its namespaces carries its process's number: `kl<pid>-…` under /run/netns and in the
/// folder for temporary files. The process holds a lock on /run/kalsae-lab/<pid> as long as it lives, so what belongs
/// to a lock that nobody holds may be taken away, even where the number is in use again.
enum Registry {
  private struct State {
    var lock: Descriptor?
    var labs: [String: Weak] = [:]
  }
  private struct Weak {
    weak var lab: Lab?
  }

  private static let state = Mutex(State())
  static let lockFolder = "/run/kalsae-lab"
  static let namespaceFolder = "/run/netns"
  static var temporaryFolder: String { environment("TMPDIR") ?? "/tmp" }

  /// Registers a lab under a name that no other lab of this process has, and returns that name.
  static func register(_ lab: Lab, named wanted: String) throws -> String {
    try state.withLock { state in
      if state.lock == nil {
        try Files.makeDirectory(lockFolder, mode: 0o700)
        let path = "\(lockFolder)/\(getpid())"
        state.lock = try Descriptor(unsafe lab_lock_file(path), "lock \(path)")
        // A process that had our number before us may have died badly.
        remove(leftBy: getpid())
        atexit {
          Interruption.holdIfInterrupted()
          Registry.cleanUpAll()
        }
      }
      var name = wanted
      var number = 1
      while state.labs[name] != nil {
        number += 1
        name = "\(wanted)\(number)"
      }
      state.labs[name] = Weak(lab: lab)
      return name
    }
  }

  static func unregister(_ name: String) {
    _ = state.withLock { $0.labs.removeValue(forKey: name) }
  }

  static func cleanUpAll() {
    let labs = state.withLock { $0.labs.values.map(\.lab) }
    for lab in labs { lab?.cleanUp() }
    state.withLock { state in
      guard state.lock != nil, state.labs.isEmpty else { return }
      _ = unsafe unlink("\(lockFolder)/\(getpid())")
      state.lock = nil
    }
  }

  /// The process that a name belongs to, if it is the name of a lab's thing.
  static func owner(of name: String) -> pid_t? {
    guard name.hasPrefix("kl"), let end = name.firstIndex(of: "-") else { return nil }
    let digits = name[name.index(name.startIndex, offsetBy: 2)..<end]
    guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
    return pid_t(digits)
  }

  /// Takes away what labs of dead processes have left: their processes, namespaces and temporary files. Returns the
  /// names of the namespaces.
  static func collectLeftovers() -> [String] {
    let names = Files.list(namespaceFolder) + Files.list(temporaryFolder)
    var owners = Set(names.compactMap(owner(of:)))
    owners.formUnion(Files.list(lockFolder).compactMap { pid_t($0) })
    owners.remove(getpid())
    var removed: [String] = []
    for owner in owners {
      let path = "\(lockFolder)/\(owner)"
      if Files.exists(path) {
        // Held: its process lives. Not held: nobody else takes these things away as long as we hold it.
        guard let lock = try? Descriptor(unsafe lab_lock_file(path), "lock") else { continue }
        removed += remove(leftBy: owner)
        _ = unsafe unlink(path)
        withExtendedLifetime(lock) {}
      } else if kill(owner, 0) != 0 && errno == ESRCH {
        removed += remove(leftBy: owner)
      }
    }
    return removed
  }

  @discardableResult
  private static func remove(leftBy owner: pid_t) -> [String] {
    let namespaces = Files.list(namespaceFolder).filter { Registry.owner(of: $0) == owner }
    removeNamespaces(namespaces)
    for name in Files.list(temporaryFolder) where Registry.owner(of: name) == owner {
      try? Files.removeTree("\(temporaryFolder)/\(name)")
    }
    return namespaces
  }

  /// Ends the processes in namespaces and removes these. Starts no process, so that it also works while this one is
  /// on its way out.
  static func removeNamespaces(_ names: [String]) {
    let paths = names.map { "\(namespaceFolder)/\($0)" }
    endProcesses(inNamespacesOf: paths)
    for path in paths { _ = unsafe lab_remove_netns(path) }
  }

  /// Ends every process whose network namespace is that of one of the files: only descendants of a lab can be there.
  private static func endProcesses(inNamespacesOf paths: [String]) {
    // The host's own namespace is never a lab's, whatever is mounted where a lab's should be.
    guard let own = Files.identity("/proc/self/ns/net") else { return }
    let wanted = paths.compactMap(Files.identity).filter { $0 != own }
    guard !wanted.isEmpty else { return }
    func found() -> [Descriptor] {
      Files.list("/proc").compactMap { name in
        guard let pid = pid_t(name), pid != getpid(),
          let process = try? Descriptor(lab_pidfd_open(pid), "pidfd_open"),
          let identity = Files.identity("/proc/\(name)/ns/net"), wanted.contains(where: { $0 == identity })
        else { return nil }
        // If the number had been given to another process since, this descriptor would be that process's already.
        return process
      }
    }
    for (signal, bound) in [(SIGTERM, Duration.seconds(2)), (SIGKILL, .seconds(2))] {
      let processes = found()
      for process in processes { _ = lab_pidfd_signal(process.number, signal) }
      let deadline = Deadline(after: bound)
      for process in processes { _ = try? process.wait(for: POLLIN, until: deadline) }
      if processes.isEmpty { return }
    }
  }
}

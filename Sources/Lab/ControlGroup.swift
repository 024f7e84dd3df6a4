import Glibc

extension Lab {
  /// Where control groups of version 2 are; nil: nowhere, or not for this process.
  public static let controlGroupRoot: String? = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].first {
    unsafe access("\($0)/cgroup.procs", W_OK) == 0 && access("\($0)/cgroup.controllers", F_OK) == 0
  }

  /// Makes a control group for programs of the lab; they enter by writing their number into its `cgroup.procs`. It goes
  /// when the lab is cleaned up: who is still in it is moved out.
  public func controlGroup() throws -> String {
    guard let root = Lab.controlGroupRoot else {
      throw LabError.unavailable("no control groups of version 2: mount cgroup2 at /sys/fs/cgroup or …/unified")
    }
    Lab.removeAbandonedGroups(root)
    let path = "\(root)/\(prefix)"
    guard unsafe mkdir(path, 0o755) == 0 || errno == EEXIST else { throw failure("make the control group \(path)") }
    try onCleanUp { Lab.removeGroup(path, root) }
    return path
  }

  private static func removeGroup(_ path: String, _ root: String) {
    // A program may start another meanwhile, and one that ends is there for a moment longer.
    for _ in 0..<100 {
      for number in ((try? Files.read("\(path)/cgroup.procs")) ?? "").split(separator: "\n") {
        guard let file = unsafe fopen("\(root)/cgroup.procs", "w") else { return }
        unsafe fputs("\(number)\n", file)
        unsafe fclose(file)
      }
      if unsafe rmdir(path) == 0 || errno != EBUSY { return }
      usleep(10_000)
    }
  }

  /// Takes away the control groups of labs whose process was killed.
  private static func removeAbandonedGroups(_ root: String) {
    for name in Files.list(root) {
      guard name.hasPrefix("kl"), let process = Int32(name.dropFirst(2).prefix { $0.isNumber }), process > 0,
        kill(process, 0) != 0, errno == ESRCH
      else { continue }
      removeGroup("\(root)/\(name)", root)
    }
  }
}

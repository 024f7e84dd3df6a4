import CEBPF
import Glibc

/// The folder in a BPF file system that keeps a node's programs and maps alive while no process holds them.
public struct PinFolder: Sendable {
  /// The BPF file system that systemd mounts, else one of ours.
  static let common = "/sys/fs/bpf"
  static let own = "/run/kalsae/bpf"

  public let node: String
  let root: String
  let isOwnMount: Bool
  /// A BPF file system takes no dots, and names of nodes have no underscores.
  var path: String { "\(root)/\(String(node.map { $0 == "." ? "_" : $0 }))" }
  var links: String { "\(path)/links" }
  var maps: String { "\(path)/maps-\(KALSAE_EBPF_LAYOUT)" }
  var nextMaps: String { "\(path)/maps-new" }
  /// What carries flows between the devices of a network namespace: a thing of its own, without the services.
  func overlay(_ namespace: UInt64) -> String { "\(path)/overlay-\(namespace)" }
  /// Those that there are.
  var overlays: [String] { folders("overlay-") }
  /// What enforces policy at the devices of a network namespace.
  func policy(_ namespace: UInt64) -> String { "\(path)/policy-\(namespace)" }
  var policies: [String] { folders("policy-") }

  private func folders(_ prefix: String) -> [String] {
    PinFolder.list(path).filter { $0.hasPrefix(prefix) }.map { "\(path)/\($0)" }
  }

  public init(node: String) {
    self.node = node
    isOwnMount = unsafe kalsae_bpf_is_mounted(PinFolder.common) == 0
    // In a folder of ours: the kernel puts files of its own at the top.
    root = "\(isOwnMount ? PinFolder.own : PinFolder.common)/kalsae"
  }

  /// The nodes that have something here.
  public static func nodes() -> [String] {
    var names: Set<String> = []
    for mount in [common, own] {
      names.formUnion(list("\(mount)/kalsae").map { String($0.map { $0 == "_" ? "." : $0 }) })
    }
    return names.sorted()
  }

  var exists: Bool { PinFolder.isThere(path) }

  func make() throws(EBPFError) {
    let lock = PinFolder.lock()
    defer { _ = lock }
    if isOwnMount, unsafe kalsae_bpf_is_mounted(PinFolder.own) == 0 {
      try PinFolder.makeFolder(PinFolder.own)
      try check(unsafe kalsae_bpf_mount(PinFolder.own), "cannot mount a BPF file system at \(PinFolder.own)")
    }
    try PinFolder.makeFolder(root)
    try PinFolder.makeFolder(path)
  }

  /// Takes the folders away that `isOwn` says, and what is empty then, also the mount where it was ours.
  func remove(_ isOwn: (String) -> Bool) {
    let lock = PinFolder.lock()
    defer { _ = lock }
    for folder in PinFolder.list(path) where isOwn(folder) {
      for name in PinFolder.list("\(path)/\(folder)") { unsafe unlink("\(path)/\(folder)/\(name)") }
      unsafe rmdir("\(path)/\(folder)")
    }
    guard unsafe rmdir(path) == 0 else { return }
    // Only the last node's goes. Where it was mounted stays: with that folder the kernel would take away what other mount
    // namespaces have mounted on it, and all that is pinned there.
    guard unsafe rmdir(root) == 0, isOwnMount else { return }
    _ = unsafe kalsae_bpf_unmount(PinFolder.own)
  }

  /// Puts the maps at `nextMaps` in the place of those of before.
  func settleMaps() throws(EBPFError) {
    for folder in PinFolder.list(path) where folder.hasPrefix("maps-") && "\(path)/\(folder)" != nextMaps {
      PinFolder.clear("\(path)/\(folder)")
    }
    if unsafe rename(nextMaps, maps) != 0 { throw EBPFError("cannot rename \(nextMaps)", code: errno) }
  }

  /// Several nodes, in tests also of one machine, come and go: the last takes the mount away, and nobody comes meanwhile.
  private static func lock() -> Descriptor? {
    unsafe mkdir("/run/kalsae", 0o755)
    let file = unsafe open("/run/kalsae/bpf.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard file >= 0 else { return nil }
    while flock(file, LOCK_EX) != 0, errno == EINTR {}
    return Descriptor(file)
  }

  static func clear(_ folder: String) {
    for name in list(folder) { unsafe unlink("\(folder)/\(name)") }
    unsafe rmdir(folder)
  }

  static func isThere(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

  static func makeFolder(_ path: String) throws(EBPFError) {
    if unsafe mkdir(path, 0o700) != 0, errno != EEXIST {
      let code = errno
      throw EBPFError("cannot make \(path)", code: code, hint: code == EPERM || code == EACCES ? "this needs root" : "")
    }
  }

  static func list(_ folder: String) -> [String] {
    guard let directory = unsafe opendir(folder) else { return [] }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// What is pinned at a path; nil: nothing.
  static func get(_ path: String) -> Descriptor? {
    let number = unsafe kalsae_bpf_get_pinned(path)
    return number < 0 ? nil : Descriptor(number)
  }
}

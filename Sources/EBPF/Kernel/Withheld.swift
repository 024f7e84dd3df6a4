import Glibc

/// What this process takes the kernel not to have: names with commas between in `KALSAE_EBPF_WITHOUT`. So it can be seen on
/// any kernel what happens on one that is older. A hook's name is that of its program's section; besides there are `tcx`,
/// `devices` (programs at devices), `xdp` and `set_retval`.
enum Withheld {
  private static let names: Set<String> = {
    guard let text = unsafe getenv("KALSAE_EBPF_WITHOUT") else { return [] }
    return Set(unsafe String(cString: text).split(separator: ",").map(String.init))
  }()

  /// What a probe says, a negated error number, unless its feature is withheld.
  static func probe(_ name: String, _ probe: () -> Int32) -> Int32 { names.contains(name) ? -EOPNOTSUPP : probe() }
}

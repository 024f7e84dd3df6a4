import CEBPF
import Glibc

/// The programs that are attached to devices. Raw values name what is pinned.
enum DeviceProgram: String, CaseIterable {
  case overlay = "link"
  case balancer = "tc_lb"
  case policyFromPod = "policy_in"
  case policyToPod = "policy_out"

  /// Whether it sees what goes out by the device, and not what comes in.
  var isEgress: Bool { self == .policyToPod }

  /// Whether it comes before the programs of others: what user space has decided, and policy, are before what the kernel
  /// would decide.
  var isFirst: Bool { self != .balancer }

  /// Its place among filters of traffic control: all are in front of the guard (11), which drops what is the data plane's.
  var preference: UInt32 {
    switch self {
    case .overlay: 8
    case .policyFromPod, .policyToPod: 9
    case .balancer: 10
    }
  }
}

/// How programs are attached to devices.
enum DeviceWay {
  /// By links (tcx, Linux 6.6): they go when nothing holds them any more.
  case link
  /// As filters of traffic control, beside those of others.
  case filter

  /// What this kernel has.
  static func probe() -> DeviceWay { Withheld.probe("tcx", kalsae_bpf_probe_tcx) < 0 ? .filter : .link }

  /// Why this kernel has no programs at devices at all; nil: it has.
  static func refusal() -> String? {
    let result = Withheld.probe("devices", kalsae_bpf_probe_devices)
    return result < 0 ? "programs for devices cannot be loaded: \(errorText(-result))" : nil
  }
}

/// A program at a device. What is pinned in a folder says that it is there: a link, which keeps it there; of a filter, which
/// stays by itself, the program, by a name with the cookie of the device's network namespace.
struct DeviceHook {
  let place: String
  let program: DeviceProgram
  let interface: Int32

  private var name: String { "\(program.rawValue)-\(interface)" }
  private var linkPath: String { "\(place)/\(name)" }
  private var filterPrefix: String { "filter-\(name)-" }

  /// Those that a folder holds.
  static func all(in place: String) -> [DeviceHook] {
    PinFolder.list(place).compactMap { name in
      let isFilter = name.hasPrefix("filter-")
      let words = name.dropFirst(isFilter ? 7 : 0).split(separator: "-")
      guard words.count == (isFilter ? 3 : 2), let program = DeviceProgram(rawValue: String(words[0])),
        let number = Int32(words[1])
      else { return nil }
      return DeviceHook(place: place, program: program, interface: number)
    }
  }

  /// Attaches a program to a device of the caller's network namespace, or puts it in the place of the one that is attached,
  /// at once. Returns what keeps it there, for who must not lose it with the file system that it is pinned in; a filter
  /// stays by itself.
  @discardableResult
  func attach(_ number: Int32, by way: DeviceWay) throws(EBPFError) -> Descriptor? {
    switch way {
    case .link:
      let link = try attachLink(number)
      detachFilters()
      return link
    case .filter:
      try attachFilter(number)
      detachLink()
      return nil
    }
  }

  private var failure: String { "cannot attach \(program.rawValue) to interface \(interface)" }

  private func attachLink(_ number: Int32) throws(EBPFError) -> Descriptor {
    if let link = PinFolder.get(linkPath) {
      if kalsae_bpf_link_update(link.number, number) == 0 { return link }
      // Its device is gone, and another has its number.
      unsafe unlink(linkPath)
    }
    let link = Descriptor(
      try check(kalsae_bpf_attach_device(number, interface, program.isEgress, program.isFirst), failure))
    try check(
      unsafe kalsae_bpf_pin(link.number, linkPath), "cannot pin the link of interface \(interface) at \(linkPath)")
    return link
  }

  private func attachFilter(_ number: Int32) throws(EBPFError) {
    let path = "\(place)/\(filterPrefix)\(try SocketNamespace.cookie())"
    // What is noted before it is there is looked for in vain; what is there and not noted would stay for good.
    let next = "\(place)/next"
    unsafe unlink(next)
    try check(unsafe kalsae_bpf_pin(number, next), "cannot pin a program at \(next)")
    if unsafe rename(next, path) != 0 { throw EBPFError("cannot rename \(next)", code: errno) }
    let result = kalsae_bpf_attach_filter(number, interface, program.isEgress, program.preference)
    if result < 0 { unsafe unlink(path) }
    try check(result, failure, hint: "the kernel needs CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF")
  }

  func detach() {
    detachLink()
    detachFilters()
  }

  /// At once, whoever else holds the link.
  private func detachLink() {
    if let link = PinFolder.get(linkPath) { _ = kalsae_bpf_link_detach(link.number) }
    unsafe unlink(linkPath)
  }

  private func detachFilters() {
    for name in PinFolder.list(place) where name.hasPrefix(filterPrefix) {
      if let cookie = UInt64(name.dropFirst(filterPrefix.count)), let file = SocketNamespace.file(of: cookie) {
        // A device that is gone took its filters along.
        _ = unsafe kalsae_bpf_detach_filter(file, interface, program.isEgress, program.preference)
      }
      unsafe unlink("\(place)/\(name)")
    }
  }
}

extension SocketNamespace {
  /// The file of the network namespace with a cookie. nil: nobody has such a namespace, as far as processes and /run/netns
  /// show.
  static func file(of cookie: UInt64) -> String? {
    var seen: Set<UInt64> = []
    let files =
      ["/proc/thread-self/ns/net"] + PinFolder.list("/run/netns").map { "/run/netns/\($0)" }
      + PinFolder.list("/proc").filter { $0.allSatisfy(\.isNumber) }.map { "/proc/\($0)/ns/net" }
    for file in files {
      var status = stat()
      guard unsafe stat(file, &status) == 0, seen.insert(UInt64(status.st_ino)).inserted else { continue }
      if (try? SocketNamespace.cookie(of: file)) == cookie { return file }
    }
    return nil
  }
}

import Addresses
import Glibc

/// The store of the reference plugin `host-local`, so that either may take over from the other while pods run (IPAM-1):
/// a folder a network, in it a file an address that holds `<containerID>\r\n<ifname>`, `last_reserved_ip.<n>` for each
/// range set, and `lock`, which everybody takes by flock.
///
/// Files appear with their contents, so that a process that is killed leaves no address without an owner. They are not
/// forced to the disk, as the reference plugin's are not: no pod outlives what would lose them.
struct HostLocalStore: Sendable {
  static let defaultFolder = "/var/lib/cni/networks"

  let folder: String

  /// `data`: the folder of all networks.
  init(data: String?, network: String) throws(IPAMError) {
    folder = "\(data ?? HostLocalStore.defaultFolder)/\(network)"
    try Files.makeFolder(folder)
  }

  /// Runs `body` while nobody else has the store.
  func locked<R>(_ body: () throws(IPAMError) -> R) throws(IPAMError) -> R {
    try FileLock.with("\(folder)/lock", body)
  }

  private static func owner(_ containerID: String, _ interface: String) -> String { "\(containerID)\r\n\(interface)" }

  private var hidden: String { "\(folder)/.new" }

  /// Gives an address to an attachment; false where somebody has it. Locked.
  func reserve(_ address: IPAddress, _ containerID: String, _ interface: String, rangeSet: Int) throws(IPAMError)
    -> Bool
  {
    guard try Files.create("\(folder)/\(address)", Self.owner(containerID, interface), by: hidden) else { return false }
    try Files.replace("\(folder)/last_reserved_ip.\(rangeSet)", "\(address)", by: hidden)
    return true
  }

  func lastReserved(rangeSet: Int) throws(IPAMError) -> IPAddress? {
    try Files.contents("\(folder)/last_reserved_ip.\(rangeSet)").flatMap { IPAddress(trimmed($0)) }
  }

  /// Who has which address. A file may hold the container's id alone: so did the plugin's first versions.
  struct Entry {
    var address: IPAddress
    var containerID: String
    var interface: String?
    fileprivate var path: String
  }

  func entries() throws(IPAMError) -> [Entry] {
    var entries: [Entry] = []
    for name in try Files.names(in: folder) ?? [] {
      guard let address = IPAddress(name), let text = try Files.contents("\(folder)/\(name)") else { continue }
      let parts = text.split(whereSeparator: \.isNewline).map { trimmed($0) }
      entries.append(
        Entry(
          address: address, containerID: parts.first ?? "", interface: parts.count > 1 ? parts[1] : nil,
          path: "\(folder)/\(name)"))
    }
    return entries
  }

  func remove(_ entry: Entry) { Files.remove(entry.path) }
}

extension HostLocalStore.Entry {
  func belongs(to containerID: String, _ interface: String) -> Bool {
    self.containerID == containerID && (self.interface == nil || self.interface == interface)
  }
}

func trimmed(_ text: some StringProtocol) -> String {
  String(text.drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
}

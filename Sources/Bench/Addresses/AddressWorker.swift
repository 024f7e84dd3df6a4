import Addresses
import CLinux
import Glibc
import IPAM
import Model

/// What the processes of the address bench share.
public struct AddressBenchPlan: Sendable {
  /// Store and logs lie here.
  public var folder: String
  public var processes = 16
  /// Operations of each process; half of them give an address, half take one back.
  public var operations = 1000
  /// The processes stand for callers on this many nodes.
  public var nodes = 4
  /// The addresses that a process holds at most at a time.
  public var held = 12

  public init(folder: String) { self.folder = folder }

  public var store: String { "\(folder)/ipam.db" }
  func log(_ index: Int) -> String { "\(folder)/\(index).log" }
  /// Its appearance is the start.
  public var startFile: String { "\(folder)/go" }

  /// Hardly more addresses than the processes hold: blocks change hands, and addresses are borrowed and come again.
  public var catalog: PoolCatalog {
    let bits = UInt32(max(1, processes * held * 5 / 4)).leadingZeroBitCount
    let pool = IPPool(
      metadata: ObjectMetadata(name: "bench"), cidr: IPPrefix(IPAddress("10.0.0.0")!, length: min(bits, 28))!,
      blockSize: 29)
    return PoolCatalog(pools: [pool])
  }

  public func manager() throws(IPAMError) -> BlockManager {
    let catalog = catalog
    return BlockManager(store: try SQLiteStore(path: store), catalog: { catalog })
  }
}

/// One process that gives and takes addresses, and writes down what it did in a way that survives SIGKILL: an address is
/// its own from the line that says so to the line before it is taken back.
public struct AddressWorker {
  private let plan: AddressBenchPlan
  private let index: Int
  private let manager: BlockManager
  private let log: Int32
  private var random: SystemRandomNumberGenerator = SystemRandomNumberGenerator()

  public init(_ plan: AddressBenchPlan, index: Int) throws(IPAMError) {
    self.plan = plan
    self.index = index
    manager = try plan.manager()
    log = unsafe open(plan.log(index), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard log >= 0 else { throw IPAMError(.storage, "cannot write \(plan.log(index))") }
  }

  /// Does what is left of the operations; goes on after a process that was killed.
  public mutating func run() throws(IPAMError) {
    var history = AddressHistory(contentsOf: plan.log(index))
    let network = "worker-\(index)"
    _ = try manager.collect(keeping: Set(history.held.keys), network: network)
    // Bounded: whoever started this process writes the file at once.
    for _ in 0..<60_000 where unsafe access(plan.startFile, F_OK) != 0 { usleep(500) }
    while history.operations < plan.operations {
      let isAdding =
        history.held.isEmpty || history.held.count < plan.held && Bool.random(using: &random)
      let start = kalsae_monotonic()
      if isAdding {
        // The number differs from that of every container of a process that was killed.
        let attachment = Attachment(network: network, containerID: "\(index)-\(start)", interface: "eth0")
        let request = AssignRequest(
          attachment, pod: PodName(namespace: "bench", name: attachment.containerID),
          node: "node-\(index % plan.nodes)")
        let address = try manager.assign(request).addresses[0].address
        let end = kalsae_monotonic()
        write("+ \(end) \(attachment.containerID) \(address) \((end - start) / 1000)\n")
        history.add(attachment, address)
      } else {
        let attachment = history.held.keys.randomElement(using: &random)!
        write("- \(start) \(attachment.containerID)\n")
        history.remove(attachment)
        try manager.release(attachment)
        let end = kalsae_monotonic()
        write(". \(end) \((end - start) / 1000)\n")
      }
    }
  }

  private func write(_ text: String) {
    var text = text
    text.withUTF8 { _ = unsafe Glibc.write(log, $0.baseAddress, $0.count) }
  }
}

/// What a worker's log says.
struct AddressHistory {
  struct Period {
    var address: IPAddress
    var from: UInt64
    /// nil = it has it still.
    var to: UInt64?
  }

  private(set) var held: [Attachment: IPAddress] = [:]
  private(set) var periods: [Period] = []
  private(set) var operations = 0
  /// When each operation ended, in nanoseconds of the monotonic clock.
  private(set) var ends: [UInt64] = []
  /// How long each operation took, in microseconds.
  private(set) var durations: [Int] = []
  private var open: [Attachment: Int] = [:]

  init(contentsOf path: String) {
    let name = path.split(separator: "/").last.map(String.init) ?? ""
    let network = "worker-\(name.prefix { $0 != "." })"
    for line in Self.text(path).split(separator: "\n") {
      let parts = line.split(separator: " ")
      guard parts.count >= 3, let time = UInt64(parts[1]) else { continue }
      let attachment = Attachment(network: network, containerID: String(parts[2]), interface: "eth0")
      switch parts[0] {
      case "+":
        guard parts.count == 5, let address = IPAddress(String(parts[3])), let duration = Int(parts[4]) else {
          continue
        }
        open[attachment] = periods.count
        periods.append(Period(address: address, from: time))
        add(attachment, address)
        ends.append(time)
        durations.append(duration)
      case "-":
        if let index = open.removeValue(forKey: attachment) { periods[index].to = time }
        remove(attachment)
      case ".":
        ends.append(time)
        if let duration = Int(parts[2]) { durations.append(duration) }
      default: break
      }
    }
  }

  mutating func add(_ attachment: Attachment, _ address: IPAddress) {
    held[attachment] = address
    operations += 1
  }

  mutating func remove(_ attachment: Attachment) {
    held[attachment] = nil
    operations += 1
  }

  private static func text(_ path: String) -> String {
    let file = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return "" }
    defer { close(file) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe read(file, $0.baseAddress, $0.count) }
      guard count > 0 else { return String(decoding: all, as: UTF8.self) }
      all += buffer[..<count]
    }
  }
}

import Addresses
import ArgumentParser
import IPAM

/// `kalsae ipam show`
struct IPAMShowCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Show how full pools and blocks are, or who has an address.")

  @Flag(name: .long, help: "Show the blocks of each pool too.")
  var showBlocks = false

  @Flag(name: .long, help: "Show the addresses that nodes use out of other nodes' blocks.")
  var showBorrowed = false

  @Flag(name: .long, help: "Show the settings that all nodes share.")
  var showConfiguration = false

  @Option(name: .long, help: ArgumentHelp("Show who has this address.", valueName: "address"))
  var ip: String?

  @OptionGroup var source: IPAMOptions

  @Option(name: .shortAndLong, help: "The form of the output; wide adds reserved and cooling addresses.")
  var output = IPAMFormat.text

  func validate() throws {
    guard [showBlocks, showBorrowed, showConfiguration, ip != nil].count(where: { $0 }) < 2 else {
      throw ValidationError("give one of --show-blocks, --show-borrowed, --show-configuration and --ip")
    }
  }

  func run() throws {
    if showConfiguration {
      let snapshot = try snapshot(PoolCatalog(pools: []))
      return try output.show(snapshot.configuration) { _ in ShowText.configuration(snapshot.configuration) }
    }
    if showBorrowed {
      let borrowed = try snapshot(PoolCatalog(pools: [])).borrowed
      return try output.show(borrowed) { _ in ShowText.borrowed(borrowed) }
    }
    if let ip {
      guard let address = IPAddress(ip) else { throw Failure(.usage, "--ip: \(ip) is no IP address") }
      let owner = try snapshot(PoolCatalog(pools: [])).owner(of: address)
      return try output.show(owner) { _ in ShowText.address(address, owner) }
    }
    let catalog = PoolCatalog(try source.loadState())
    let (pools, orphans) = try snapshot(catalog).utilization(catalog)
    try output.show(pools + orphans) { isWide in
      ShowText.utilization(pools, orphans, showBlocks: showBlocks, isWide: isWide)
    }
  }

  private func snapshot(_ catalog: PoolCatalog) throws -> IPAMSnapshot {
    let manager = try source.manager(catalog)
    return try reportingIPAM { () throws(IPAMError) in try manager.snapshot() }
  }
}

/// `kalsae ipam limits`
struct IPAMLimitsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "limits", abstract: "Show how many pods a machine of a cloud can have.",
    discussion: "MAX PODS is interfaces × (addresses per interface − 1) + 2.")

  @Argument(help: ArgumentHelp("A type, or the beginning of some, such as m5. (default: all)", valueName: "type"))
  var type = ""

  @Option(name: .shortAndLong, help: "The form of the output.")
  var output = IPAMFormat.text

  func run() throws {
    let limits = InterfaceLimits.ec2.filter { $0.key == type || $0.key.hasPrefix(type) }
    guard !limits.isEmpty else {
      throw Failure(.missing, "no type begins with \(type); `kalsae ipam limits` shows all")
    }
    try output.show(limits) { _ in ShowText.limits(limits) }
  }
}

/// `kalsae ipam configure`
struct IPAMConfigureCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "configure", abstract: "Change the settings that all nodes share.")

  @Option(name: .customLong("strictaffinity"), help: ArgumentHelp("Whether nothing is borrowed.", valueName: "bool"))
  var strictAffinity: Bool?

  @Option(name: .long, help: ArgumentHelp("Whether nodes take blocks by themselves.", valueName: "bool"))
  var autoAllocateBlocks: Bool?

  @Option(
    name: .long, help: ArgumentHelp("The most blocks of a family that a node has; 0 = any number.", valueName: "n"))
  var maxBlocksPerHost: Int?

  @Option(
    name: .long,
    help: ArgumentHelp("Seconds before an address is given again after it was taken back.", valueName: "seconds"))
  var ipCooldownSeconds: Int64?

  @OptionGroup var source: IPAMOptions

  func validate() throws {
    guard strictAffinity != nil || autoAllocateBlocks != nil || maxBlocksPerHost != nil || ipCooldownSeconds != nil
    else {
      throw ValidationError("name a setting to change, such as --strictaffinity true")
    }
    try requireNumber("--max-blocks-per-host", maxBlocksPerHost ?? 0, in: 0...100_000)
    try requireNumber("--ip-cooldown-seconds", ipCooldownSeconds ?? 0, in: 0...86_400)
  }

  func run() throws {
    // What all nodes share is best settled before the first address is given.
    let manager = try source.manager(PoolCatalog(pools: []), makes: true)
    try reportingIPAM { () throws(IPAMError) in
      try manager.configure { configuration in
        if let strictAffinity { configuration.strictAffinity = strictAffinity }
        if let autoAllocateBlocks { configuration.autoAllocateBlocks = autoAllocateBlocks }
        if let maxBlocksPerHost { configuration.maxBlocksPerHost = maxBlocksPerHost }
        if let ipCooldownSeconds { configuration.coolDownSeconds = ipCooldownSeconds }
      }
    }
    let set: [(String, (any CustomStringConvertible)?)] = [
      ("StrictAffinity", strictAffinity), ("AutoAllocateBlocks", autoAllocateBlocks),
      ("MaxBlocksPerHost", maxBlocksPerHost), ("IPCooldownSeconds", ipCooldownSeconds),
    ]
    for (name, value) in set {
      if let value { try Standard.output("Successfully set \(name) to: \(value)\n") }
    }
  }
}

import Addresses

/// What `kalsae ipam show` prints, in calicoctl's words and columns (IPAM-5).
public enum ShowText {
  /// `isWide` adds the reserved and the cooling addresses.
  public static func utilization(
    _ pools: [Utilization], _ orphans: [Utilization] = [], showBlocks: Bool, isWide: Bool = false
  ) -> String {
    var table = BorderedTable(
      ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS FREE"]
        + (isWide ? ["IPS RESERVED", "IPS COOLING", "NODE"] : []))
    func add(_ row: Utilization) {
      func share(_ number: Double) -> String {
        "\(fiveDigits(number)) (\(Int((100 * number / row.total).rounded(.toNearestOrEven)))%)"
      }
      table.add(
        [row.grouping.rawValue, "\(row.cidr)", fiveDigits(row.total), share(Double(row.inUse)), share(row.free)]
          + (isWide ? [share(row.reserved), share(Double(row.cooling)), row.node ?? ""] : []))
    }
    for pool in pools {
      add(pool)
      if showBlocks { for block in pool.blocks ?? [] { add(block) } }
    }
    if showBlocks { for block in orphans { add(block) } }
    return table.text
  }

  public static func borrowed(_ rows: [IPAMSnapshot.Borrowed]) -> String {
    var table = BorderedTable(["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"])
    for row in rows {
      table.add(["\(row.address)", row.borrowingNode, "\(row.block)", row.blockOwner, row.type, row.allocatedTo])
    }
    return table.text
  }

  public static func configuration(_ configuration: IPAMConfiguration) -> String {
    var table = BorderedTable(["PROPERTY", "VALUE"])
    table.add(["StrictAffinity", "\(configuration.strictAffinity)"])
    table.add(["AutoAllocateBlocks", "\(configuration.autoAllocateBlocks)"])
    table.add(["MaxBlocksPerHost", "\(configuration.maxBlocksPerHost)"])
    table.add(["IPCooldownSeconds", "\(configuration.coolDownSeconds)"])
    return table.text
  }

  public static func address(_ address: IPAddress, _ owner: Allocation?) -> String {
    guard let owner else { return "\(address) is not assigned\n" }
    var attributes = [
      "node": owner.node, "container": owner.attachment.containerID, "interface": owner.attachment.interface,
      "network": owner.attachment.network,
    ]
    if let pod = owner.pod {
      attributes["pod"] = pod.name
      attributes["namespace"] = pod.namespace
    }
    return "IP \(address) is in use\nAttributes:\n"
      + attributes.sorted { $0.key < $1.key }.map { "  \($0.key): \($0.value)\n" }.joined()
  }

  public static func limits(_ limits: [String: InterfaceLimits]) -> String {
    var table = BorderedTable(["INSTANCE TYPE", "INTERFACES", "IPS PER INTERFACE", "MAX PODS"])
    for (name, limit) in limits.sorted(by: { naturalOrder($0.key) < naturalOrder($1.key) }) {
      table.add([name, "\(limit.interfaces)", "\(limit.addressesPerInterface)", "\(limit.maxPods)"])
    }
    return table.text
  }

  /// Families by name, sizes by size.
  private static func naturalOrder(_ name: String) -> (String, Int) {
    let parts = name.split(separator: ".", maxSplits: 1).map(String.init)
    let small = ["nano", "micro", "small", "medium", "large", "xlarge"]
    let size = parts.count > 1 ? parts[1] : ""
    return (parts[0], small.firstIndex(of: size) ?? small.count + (Int(size.prefix { $0.isNumber }) ?? 1000))
  }
}

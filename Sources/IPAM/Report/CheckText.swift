import Addresses

extension CheckReport {
  /// The nodes that are named by how many addresses they have.
  private static let nodesShown = 20

  /// The findings in calicoctl's words and order. `showAll`: every address; `showProblems`: those with which something is
  /// wrong.
  ///
  /// Nodes have no addresses for their tunnels here, and services none from pools: both are counted as none.
  public func text(showAll: Bool, showProblems: Bool) -> String {
    let showProblems = showProblems || showAll
    var lines = ["Checking IPAM for inconsistencies...", ""]
    lines += ["Loading all IPAM blocks...", "Found \(blocks.count) IPAM blocks."]
    let entries = sorted
    for block in blocks {
      lines.append(" IPAM block \(block.cidr) affinity=\(block.node.map { "host:\($0)" } ?? "<none>"):")
      guard showAll, let cidr = IPPrefix(block.cidr) else { continue }
      for entry in entries where IPAddress(entry.ip).map(cidr.contains) ?? false {
        lines.append("  \(entry.ip) allocated; attrs \(entry.attributes)")
      }
    }
    lines += ["IPAM blocks record \(entries.count) allocations.", ""]
    lines += ["Loading all IPAM pools..."] + pools.map { "  \($0)" } + ["Found \(pools.count) active IP pools.", ""]
    lines += ["Loading all nodes.", "Found 0 node tunnel IPs.", ""]
    lines += ["Loading all service load balancer IPs.", "Found 0 service load balancer.", ""]
    lines.append("Loading all workload endpoints.")
    let owners = CheckReport.inOrder(inUse)
    if showAll { for (ip, names) in owners { lines += names.map { "  \(ip) belongs to \($0)" } } }
    lines.append("Found \(owners.reduce(0) { $0 + $1.owners.count }) workload IPs.")
    lines += ["Workloads and nodes are using \(owners.count) IPs.", ""]
    lines.append("Loading all handles")
    lines += busiestNodes
    lines.append("")
    lines += addressFindings(showProblems)
    lines.append("")
    lines += handleFindings(showAll: showAll, showProblems)
    lines.append("Scanning for blocks and affinities that contradict each other...")
    if showProblems { lines += contradictions.map { "  \($0)." } }
    lines.append("Found \(contradictions.count) contradictions.")
    lines.append("Check complete; found \(problems) problems.")
    return lines.joined(separator: "\n") + "\n"
  }

  private var busiestNodes: [String] {
    let counts = Dictionary(grouping: allocations.values.joined(), by: \.node).mapValues(\.count)
      .sorted { ($1.value, $0.key) < ($0.value, $1.key) }
    var lines = ["Looking for top (up to \(CheckReport.nodesShown)) nodes by allocations..."]
    lines += counts.prefix(CheckReport.nodesShown).map { "  \($0.key) has \($0.value) allocations" }
    if let first = counts.first {
      lines.append("Node with most allocations has \(first.value); median is \(counts[counts.count / 2].value)")
    }
    return lines
  }

  private func addressFindings(_ showProblems: Bool) -> [String] {
    var lines = ["Scanning for IPs that are allocated but not actually in use..."]
    let leaked = leaked
    if showProblems { lines += leaked.map { "  \($0.ip) leaked; attrs \($0.attributes)" } }
    lines.append("Found \(leaked.count) IPs that are allocated in IPAM but not actually in use.")
    lines.append("Scanning for IPs that are in use by a workload or node but not allocated in IPAM...")
    if showProblems {
      lines += CheckReport.inOrder(multipleOwners).map { "  \($0.ip) has multiple owners." }
      for (ip, owners) in CheckReport.inOrder(notInPool) {
        lines += owners.map { "  \(ip) in use by \($0) is not in any active IP pool." }
      }
      for (ip, owners) in CheckReport.inOrder(notAllocated) {
        lines += owners.map { "  \(ip) in use by \($0) and in active IPAM pool but has no IPAM allocation." }
      }
    }
    lines.append("Found \(notInPool.count) in-use IPs that are not in active IP pools.")
    lines.append(
      "Found \(notAllocated.count) in-use IPs that are in active IP pools but have no corresponding IPAM allocation.")
    return lines
  }

  private func handleFindings(showAll: Bool, _ showProblems: Bool) -> [String] {
    let leaked = leakedHandles ?? []
    var lines = ["Scanning for IPAM handles with no matching IPs..."]
    if showAll { lines += leaked.map { "  \($0.id) doesn't have any active IPs." } }
    lines.append(
      "Found \(leaked.count) handles with no matching IPs (and \(goodHandles) handles with matches).")
    lines.append("Scanning for IPs with missing handle...")
    if showProblems { lines += missingHandles.map { "  \($0) is in use in a block but doesn't exist." } }
    lines.append("Found \(missingHandles.count) handles mentioned in blocks with no matching handle resource.")
    return lines
  }

  private static func inOrder(_ owners: [String: [String]]) -> [(ip: String, owners: [String])] {
    owners.sorted { IPAddress($0.key)! < IPAddress($1.key)! }.map { ($0.key, $0.value) }
  }
}

extension CheckReport.Entry {
  /// Handle and owner, as calicoctl writes the attributes of an allocation.
  fileprivate var attributes: String {
    let extra = [("namespace", namespace), ("node", node), ("pod", pod)].compactMap { name, value in
      value.map { "\(name)=\($0)" }
    }
    return "Main:\(handle) Extra:\(extra.joined(separator: ","))"
  }
}

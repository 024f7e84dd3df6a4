import Addresses
import Foundation
import IPAM
import Model
import Testing

/// What people and scripts are shown, in calicoctl's words and columns.
@Suite("Reports")
struct ReportTests {
  @Test("IPAM-5: pools and blocks have calicoctl's columns, alignment and figures")
  func utilization() throws {
    let bench = Bench(pool("10.65.0.0/16", name: "four"), pool("fd5f:abcd:64::/48", name: "six"))
    for container in 0..<5 { try bench.add(container, families: [.ipv4, .ipv6]) }
    for container in 5..<7 { try bench.add(container, families: [.ipv6]) }
    let snapshot = try bench.manager.snapshot()
    let catalog = bench.catalog.withLock { $0 }
    let (pools, orphans) = snapshot.utilization(catalog)
    #expect(orphans == [])
    #expect(
      ShowText.utilization(pools, showBlocks: false) == """
        +----------+-------------------+------------+------------+-------------------+
        | GROUPING |       CIDR        | IPS TOTAL  | IPS IN USE |     IPS FREE      |
        +----------+-------------------+------------+------------+-------------------+
        | IP Pool  | 10.65.0.0/16      |      65536 | 5 (0%)     | 65531 (100%)      |
        | IP Pool  | fd5f:abcd:64::/48 | 1.2089e+24 | 7 (0%)     | 1.2089e+24 (100%) |
        +----------+-------------------+------------+------------+-------------------+

        """)
    let rows = ShowText.utilization(pools, showBlocks: true).split(separator: "\n")
    let block = snapshot.blocks[0].cidr
    #expect(rows.count == 8)
    #expect(rows[4].hasPrefix("| Block    | \(block) "))
    #expect(rows[4].contains("|         64 | 5 (8%)     | 59 (92%)          |"))
    #expect(rows[6].contains("|         64 | 7 (11%)    | 57 (89%)          |"))
  }

  @Test("IPAM-5: what cools down is in use, what is reserved is not free, and blocks of no pool are shown")
  func wide() throws {
    let bench = Bench(
      pool("10.0.0.0/24", blockSize: 26), reservations: [IPPrefix("10.0.0.0/28")!, IPPrefix("10.0.0.0/30")!])
    for container in 0..<3 { try bench.add(container) }
    try bench.add(3, requested: [IPAddress("10.0.0.1")!])
    try bench.remove(0)
    let snapshot = try bench.manager.snapshot()
    let row = snapshot.utilization(bench.catalog.withLock { $0 }).pools[0]
    #expect(row.inUse == 4 && row.cooling == 1 && row.reserved == 15 && row.free == 256 - 4 - 15)
    let text = ShowText.utilization([row], showBlocks: false, isWide: true)
    #expect(
      text.contains(
        "| GROUPING |    CIDR     | IPS TOTAL | IPS IN USE | IPS FREE  | IPS RESERVED | IPS COOLING | NODE |"))
    let (none, orphans) = snapshot.utilization(PoolCatalog(pools: []))
    #expect(none == [] && orphans.count == snapshot.blocks.count)
    #expect(ShowText.utilization([], orphans, showBlocks: true).contains("| Block    | 10.0.0."))
  }

  @Test("IPAM-5: borrowed addresses, one address, and the configuration")
  func others() throws {
    let bench = Bench(pool("172.16.0.0/29", blockSize: 29))
    try bench.add("owner", node: "worker-node-2")
    let borrowed = try bench.add("nginx", node: "worker-node-1")[0]
    let snapshot = try bench.manager.snapshot()
    #expect(
      ShowText.borrowed(snapshot.borrowed) == """
        +------------+----------------+---------------+---------------+------+---------------+
        |     IP     | BORROWING-NODE |     BLOCK     |  BLOCK OWNER  | TYPE | ALLOCATED-TO  |
        +------------+----------------+---------------+---------------+------+---------------+
        | \(borrowed) | worker-node-1  | 172.16.0.0/29 | worker-node-2 | pod  | default/nginx |
        +------------+----------------+---------------+---------------+------+---------------+

        """)
    #expect(
      ShowText.address(borrowed, snapshot.owner(of: borrowed)) == """
        IP \(borrowed) is in use
        Attributes:
          container: nginx
          interface: eth0
          namespace: default
          network: net
          node: worker-node-1
          pod: nginx

        """)
    let free = IPAddress("172.16.0.7")!
    #expect(ShowText.address(free, snapshot.owner(of: free)) == "172.16.0.7 is not assigned\n")
    #expect(
      ShowText.configuration(snapshot.configuration).hasPrefix(
        """
        +--------------------+-------+
        |      PROPERTY      | VALUE |
        +--------------------+-------+
        | StrictAffinity     | false |
        | AutoAllocateBlocks | true  |

        """))
    // Where packets go: to the block's node, but for what another borrows (NODE-7).
    #expect(snapshot.routes(toNode: "worker-node-2") == [IPPrefix("172.16.0.0/29")!])
    #expect(snapshot.routes(toNode: "worker-node-1") == [IPPrefix(host: borrowed)])
  }

  @Test(
    "IPAM-3: max pods is interfaces × (addresses − 1) + 2, as the cloud publishes it",
    arguments: [
      ("t3.nano", 4), ("t3.medium", 17), ("t2.xlarge", 44), ("m4.large", 20), ("m5.large", 29), ("c5.xlarge", 58),
      ("m6g.medium", 8), ("r5.4xlarge", 234), ("c5.9xlarge", 234), ("m5.24xlarge", 737), ("m4.16xlarge", 234),
      ("c6i.32xlarge", 737), ("m7a.48xlarge", 737),
    ])
  func limits(type: String, pods: Int) throws {
    #expect(try #require(InterfaceLimits.ec2[type]).maxPods == pods)
    #expect(ShowText.limits(InterfaceLimits.ec2).contains("| \(type) "))
  }

  @Test("IPAM-5: check finds what a test leaks, and what it takes away")
  func check() throws {
    let bench = Bench(pool("10.0.0.0/24"))
    let kept = try bench.add("kept")[0]
    let leaked = try bench.add("leaked")[0]
    let stranger = IPAddress("10.0.0.250")!
    let foreign = IPAddress("192.0.2.1")!
    func report(_ inUse: [IPAddress: [String]]) throws -> CheckReport {
      CheckReport(
        try bench.manager.snapshot(), catalog: bench.catalog.withLock { $0 }, inUse: inUse, version: "test")
    }
    #expect(try report([kept: ["a"], leaked: ["b"]]).problems == 0)
    let found = try report([kept: ["a", "b"], stranger: ["c"], foreign: ["d"]])
    #expect(found.leaked.map(\.ip) == ["\(leaked)"])
    #expect(found.notAllocated == ["\(stranger)": ["c"]] && found.notInPool == ["\(foreign)": ["d"]])
    #expect(found.multipleOwners == ["\(kept)": ["a", "b"]] && found.problems == 4)
    let text = found.text(showAll: false, showProblems: true)
    #expect(text.contains("  \(leaked) leaked; attrs pod default/leaked on node a\n"))
    #expect(text.contains("Found 1 IPs that are allocated in IPAM but not actually in use.\n"))
    #expect(text.hasSuffix("Check complete; found 4 problems.\n"))
    // A script reads it back.
    #expect(try JSONDecoder().decode(CheckReport.self, from: JSONEncoder().encode(found)) == found)
  }

  @Test("IPAM-2: a report does not release what was given anew since (ABA)")
  func staleReport() throws {
    let bench = Bench(pool("10.0.0.0/32", blockSize: 32))
    try bench.manager.configure { $0.coolDownSeconds = 0 }
    let address = try bench.add("old")[0]
    let old = CheckReport(
      try bench.manager.snapshot(), catalog: bench.catalog.withLock { $0 }, inUse: [:], version: "test"
    ).leaked[0]
    try bench.remove("old")
    // The same container even, in a block that was made anew.
    try bench.manager.releaseNode("a")
    bench.advance(1)
    #expect(try bench.add("old") == [address])
    #expect(try bench.manager.release(address, only: old) == false)
    #expect(try bench.manager.release(address) == true)
    #expect(try bench.manager.release(address) == false)
    #expect(try bench.manager.snapshot().handles.isEmpty && bench.problems() == [])
  }

  @Test("IPAM-2: the blocks of a node that is gone are given up, those in use with their last address")
  func releaseNode() throws {
    let bench = Bench(pool("10.0.0.0/24", blockSize: 31))
    for container in 0..<3 { try bench.add(container, node: "gone") }
    try bench.remove(2)
    try bench.manager.releaseNode("gone")
    #expect(try bench.manager.snapshot().blocks.map(\.node) == [nil])
    #expect(try bench.manager.snapshot().affinities == [] && bench.problems() == [])
    try bench.remove(0)
    try bench.remove(1)
    #expect(try bench.manager.snapshot().blocks == [])
  }
}

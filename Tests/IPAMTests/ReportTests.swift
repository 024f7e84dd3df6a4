import Addresses
import Foundation
import Model
import Testing

@testable import IPAM

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
    let (four, six) = ("\(snapshot.blocks[0].cidr)", "\(snapshot.blocks[1].cidr)")
    let width = max(four.count, six.count)
    func cell(_ text: String) -> String { text + String(repeating: " ", count: width - text.count) }
    let line = String(repeating: "-", count: width + 2)
    let (before, after) = (
      String(repeating: " ", count: (width - 4) / 2), String(repeating: " ", count: (width - 3) / 2)
    )
    #expect(
      ShowText.utilization(pools, showBlocks: true) == """
        +----------+\(line)+------------+------------+-------------------+
        | GROUPING | \(before)CIDR\(after) | IPS TOTAL  | IPS IN USE |     IPS FREE      |
        +----------+\(line)+------------+------------+-------------------+
        | IP Pool  | \(cell("10.65.0.0/16")) |      65536 | 5 (0%)     | 65531 (100%)      |
        | Block    | \(cell(four)) |         64 | 5 (8%)     | 59 (92%)          |
        | IP Pool  | \(cell("fd5f:abcd:64::/48")) | 1.2089e+24 | 7 (0%)     | 1.2089e+24 (100%) |
        | Block    | \(cell(six)) |         64 | 7 (11%)    | 57 (89%)          |
        +----------+\(line)+------------+------------+-------------------+

        """)
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
      ShowText.configuration(snapshot.configuration) == """
        +--------------------+-------+
        |      PROPERTY      | VALUE |
        +--------------------+-------+
        | StrictAffinity     | false |
        | AutoAllocateBlocks | true  |
        | MaxBlocksPerHost   |     0 |
        | IPCooldownSeconds  |    30 |
        +--------------------+-------+

        """)
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
    let block = try bench.manager.snapshot().blocks[0].cidr
    let (keptOwner, leakedOwner) = (
      "Main:net|kept|eth0 Extra:namespace=default,node=a,pod=kept",
      "Main:net|leaked|eth0 Extra:namespace=default,node=a,pod=leaked"
    )
    #expect(
      found.text(showAll: true, showProblems: false) == """
        Checking IPAM for inconsistencies...

        Loading all IPAM blocks...
        Found 1 IPAM blocks.
         IPAM block \(block) affinity=host:a:
          \(kept) allocated; attrs \(keptOwner)
          \(leaked) allocated; attrs \(leakedOwner)
        IPAM blocks record 2 allocations.

        Loading all IPAM pools...
          10.0.0.0/24
        Found 1 active IP pools.

        Loading all nodes.
        Found 0 node tunnel IPs.

        Loading all service load balancer IPs.
        Found 0 service load balancer.

        Loading all workload endpoints.
          \(kept) belongs to a
          \(kept) belongs to b
          10.0.0.250 belongs to c
          192.0.2.1 belongs to d
        Found 4 workload IPs.
        Workloads and nodes are using 3 IPs.

        Loading all handles
        Looking for top (up to 20) nodes by allocations...
          a has 2 allocations
        Node with most allocations has 2; median is 2

        Scanning for IPs that are allocated but not actually in use...
          \(leaked) leaked; attrs \(leakedOwner)
        Found 1 IPs that are allocated in IPAM but not actually in use.
        Scanning for IPs that are in use by a workload or node but not allocated in IPAM...
          \(kept) has multiple owners.
          192.0.2.1 in use by d is not in any active IP pool.
          10.0.0.250 in use by c and in active IPAM pool but has no IPAM allocation.
        Found 1 in-use IPs that are not in active IP pools.
        Found 1 in-use IPs that are in active IP pools but have no corresponding IPAM allocation.

        Scanning for IPAM handles with no matching IPs...
        Found 0 handles with no matching IPs (and 2 handles with matches).
        Scanning for IPs with missing handle...
        Found 0 handles mentioned in blocks with no matching handle resource.
        Scanning for blocks and affinities that contradict each other...
        Found 0 contradictions.
        Check complete; found 4 problems.

        """)
    // Without options the addresses are only counted.
    let brief = found.text(showAll: false, showProblems: false)
    #expect(!brief.contains("leaked;") && !brief.contains("belongs to") && brief.contains("found 4 problems."))
    // A script reads it back.
    #expect(try JSONDecoder().decode(CheckReport.self, from: JSONEncoder().encode(found)) == found)
  }

  @Test("IPAM-5 IPAM-6: check finds handles without addresses and addresses without handles; release takes the former")
  func handles() throws {
    let bench = Bench(pool("10.0.0.0/24"))
    try bench.add("lost")
    try bench.add("bare")
    // What no process leaves behind, but a store that was put back from two copies may have.
    try bench.store.updateObjects { objects in
      let lost = try #require(try objects.handle(attachment("lost")))
      var block = try #require(try objects.block(lost.value.blocks[0]))
      _ = block.value.giveBack(
        lost.value.addresses[0], handle: lost.value.attachment.handle, clock: CoolDown(now: 0, seconds: 0))
      try objects.put(block)
      try objects.delete(try #require(try objects.handle(attachment("bare"))))
    }
    func report() throws -> CheckReport {
      CheckReport(
        try bench.manager.snapshot(), catalog: bench.catalog.withLock { $0 }, inUse: [:], version: "test")
    }
    let found = try report()
    #expect(found.leakedHandles?.map(\.id) == ["net|lost|eth0"] && found.missingHandles == ["net|bare|eth0"])
    #expect(found.contradictions == [] && found.leaked.count == 1 && found.problems == 3)
    let text = found.text(showAll: true, showProblems: false)
    #expect(
      text.contains(
        """
        Scanning for IPAM handles with no matching IPs...
          net|lost|eth0 doesn't have any active IPs.
        Found 1 handles with no matching IPs (and 0 handles with matches).
        Scanning for IPs with missing handle...
          net|bare|eth0 is in use in a block but doesn't exist.
        Found 1 handles mentioned in blocks with no matching handle resource.
        """))
    #expect(try JSONDecoder().decode(CheckReport.self, from: JSONEncoder().encode(found)) == found)
    #expect(try bench.manager.release(handle: "net|bare|eth0") == false)
    #expect(try bench.manager.release(handle: "net|lost|eth0") == true)
    #expect(try bench.manager.release(handle: "net|lost|eth0") == false)
    #expect(try report().leakedHandles == nil)
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

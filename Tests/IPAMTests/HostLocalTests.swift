import Addresses
import Foundation
import IPAM
import Synchronization
import Testing

/// The reference plugin, as Debian has it (containernetworking-plugins).
enum ReferencePlugin {
  static let folder = "/usr/lib/cni"
  static let hasHostLocal = FileManager.default.isExecutableFile(atPath: "\(folder)/host-local")
  static let needed: Comment = "needs the reference plugins: apt-get install containernetworking-plugins"

  /// Runs a plugin as a runtime does.
  static func run(
    _ name: String, _ command: String, _ configuration: String, container: String, interface: String = "eth0",
    netns: String = "/proc/self/ns/net"
  ) throws -> (status: Int32, output: String) {
    let process = Process()
    process.executableURL = URL(filePath: "\(folder)/\(name)")
    process.environment = [
      "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": interface, "CNI_NETNS": netns,
      "CNI_PATH": folder,
    ]
    let (input, output) = (Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    try input.fileHandleForWriting.write(contentsOf: Data(configuration.utf8))
    try input.fileHandleForWriting.close()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    return (process.terminationStatus, text)
  }
}

/// `host-local`'s store: by the rules, and with the reference plugin on the same folder.
@Suite("host-local")
struct HostLocalTests {
  private final class Network {
    let folder: TemporaryFolder
    let manager: HostLocalManager
    private let subnets: [String]

    convenience init(_ subnets: String...) throws {
      try self.init(subnets.map { [try AddressRange(subnet: IPPrefix($0)!)] }, subnets)
    }

    init(_ sets: [[AddressRange]], _ subnets: [String] = []) throws {
      folder = try TemporaryFolder("hostlocal")
      var settings = HostLocalManager.Settings(network: "net", rangeSets: try sets.map { try RangeSet($0) })
      settings.dataFolder = folder.path
      manager = try HostLocalManager(settings)
      self.subnets = subnets
    }

    var store: String { "\(folder.path)/net" }

    func add(_ container: String, _ interface: String = "eth0", requested: [String] = []) throws(IPAMError) -> [String]
    {
      try manager.assign(
        AssignRequest(
          attachment(container, interface), node: "a", requested: requested.map { IPAddress($0)! })
      ).addresses.map { "\($0.address)/\($0.prefixLength)" }
    }

    func file(_ name: String) -> String? { try? String(contentsOfFile: "\(store)/\(name)", encoding: .utf8) }

    var given: [String] {
      ((try? FileManager.default.contentsOfDirectory(atPath: store)) ?? []).filter { IPAddress($0) != nil }.sorted()
    }

    var configuration: String {
      let ranges = subnets.map { "[{\"subnet\": \"\($0)\"}]" }.joined(separator: ", ")
      return """
        {"cniVersion": "1.0.0", "name": "net", "type": "x",
         "ipam": {"type": "host-local", "dataDir": "\(folder.path)", "ranges": [\(ranges)]}}
        """
    }

    /// Has the reference plugin add a container.
    func referenceAdd(_ container: String) throws -> [String] {
      let (status, output) = try ReferencePlugin.run("host-local", "ADD", configuration, container: container)
      guard status == 0 else { return [] }
      struct Result: Decodable {
        struct IP: Decodable { var address: String }
        var ips: [IP]
      }
      return try JSONDecoder().decode(Result.self, from: Data(output.utf8)).ips.map(\.address)
    }

    func referenceDelete(_ container: String) throws -> Int32 {
      try ReferencePlugin.run("host-local", "DEL", configuration, container: container).status
    }
  }

  @Test("IPAM-1: a file an address with its owner, and the last address of each range set")
  func layout() throws {
    let network = try Network("10.1.0.0/24", "fd01::/64")
    #expect(try network.add("c1") == ["10.1.0.2/24", "fd01::2/64"])
    #expect(try network.add("c2", "net1") == ["10.1.0.3/24", "fd01::3/64"])
    #expect(network.given == ["10.1.0.2", "10.1.0.3", "fd01::2", "fd01::3"])
    #expect(network.file("10.1.0.2") == "c1\r\neth0" && network.file("fd01::3") == "c2\r\nnet1")
    #expect(network.file("last_reserved_ip.0") == "10.1.0.3" && network.file("last_reserved_ip.1") == "fd01::3")
    #expect(network.file("lock") != nil)
  }

  @Test("IPAM-1: round robin over all ranges of a set, without gateway, network and broadcast address")
  func roundRobin() throws {
    let ranges = [
      try AddressRange(subnet: IPPrefix("10.1.0.0/29")!, gateway: IPAddress("10.1.0.3")!),
      try AddressRange(
        subnet: IPPrefix("10.2.0.0/24")!, start: IPAddress("10.2.0.10")!, end: IPAddress("10.2.0.11")!),
    ]
    let network = try Network([ranges])
    let expected = [
      "10.1.0.1/29", "10.1.0.2/29", "10.1.0.4/29", "10.1.0.5/29", "10.1.0.6/29", "10.2.0.10/24", "10.2.0.11/24",
    ]
    for (index, address) in expected.enumerated() { #expect(try network.add("c\(index)") == [address]) }
    #expect(#expect(throws: IPAMError.self) { try network.add("more") }?.kind == .exhausted)
    #expect(#expect(throws: IPAMError.self) { try network.manager.ready() }?.kind == .exhausted)
    // What was taken back comes when its turn has come.
    try network.manager.release(attachment("c1"))
    try network.manager.release(attachment("c4"))
    #expect(try network.add("d0") == ["10.1.0.2/29"])
    #expect(try network.add("d1") == ["10.1.0.6/29"])
  }

  @Test("IPAM-1: requested addresses; a failure gives nothing away")
  func requested() throws {
    let network = try Network("10.1.0.0/24", "fd01::/64")
    #expect(try network.add("c1", requested: ["10.1.0.77"]) == ["10.1.0.77/24", "fd01::2/64"])
    for wrong in [["10.1.0.77"], ["10.1.0.1"], ["10.9.0.1"], ["10.1.0.5", "10.1.0.6"], ["fd01::2"]] {
      #expect(#expect(throws: IPAMError.self) { try network.add("c2", requested: wrong) }?.kind == .refused, "\(wrong)")
    }
    #expect(network.given == ["10.1.0.77", "fd01::2"])
    #expect(#expect(throws: IPAMError.self) { try network.add("c1") }?.kind == .refused)
  }

  @Test("CNI-4, CNI-5, CNI-6: release is idempotent, check, status and collection, also of files without an owner")
  func lifecycle() throws {
    let network = try Network("10.1.0.0/24")
    for container in ["c1", "c2", "c3"] { _ = try network.add(container) }
    try network.manager.check(attachment("c1"), has: [IPAddress("10.1.0.2")!])
    #expect(throws: IPAMError.self) { try network.manager.check(attachment("c1"), has: [IPAddress("10.1.0.3")!]) }
    try network.manager.release(attachment("c1"))
    try network.manager.release(attachment("c1"))
    #expect(throws: IPAMError.self) { try network.manager.check(attachment("c1"), has: []) }
    // What a reference plugin leaves that is killed between making a file and writing it.
    try Data().write(to: URL(filePath: "\(network.store)/10.1.0.200"))
    let released = try network.manager.collect(keeping: [attachment("c2")], network: "net")
    #expect(released.map(\.containerID) == ["", "c3"] && network.given == ["10.1.0.3"])
    try network.manager.ready()
  }

  @Test("IPAM-1: configurations that make no sense are refused with the field")
  func configurations() throws {
    func range(_ subnet: String, _ start: String? = nil, _ end: String? = nil) throws(IPAMError) -> AddressRange {
      try AddressRange(subnet: IPPrefix(subnet)!, start: start.map { IPAddress($0)! }, end: end.map { IPAddress($0)! })
    }
    #expect(throws: IPAMError.self) { try range("10.0.0.0/31") }
    #expect(throws: IPAMError.self) { try range("10.0.0.0/24", "10.1.0.1") }
    #expect(throws: IPAMError.self) { try range("10.0.0.0/24", "10.0.0.9", "10.0.0.8") }
    let (a, b, c) = (try range("10.0.0.0/24"), try range("10.0.0.0/25"), try range("fd00::/64"))
    #expect(throws: IPAMError.self) { try RangeSet([a, b]) }
    #expect(throws: IPAMError.self) { try RangeSet([a, c]) }
    #expect(throws: IPAMError.self) { try RangeSet([]) }
    #expect(#expect(throws: IPAMError.self) { _ = try Network([[a], [b]]) }?.message.contains("overlaps") == true)
  }

  @Test(
    "IPAM-1: the reference plugin and Kalsae take turns on one store, and take over each other's containers",
    .enabled(if: ReferencePlugin.hasHostLocal, ReferencePlugin.needed))
  func interoperable() throws {
    let network = try Network("10.1.0.0/28", "fd01::/64")
    var given: [[String]] = []
    for index in 0..<6 {
      given.append(try index % 2 == 0 ? network.add("c\(index)") : network.referenceAdd("c\(index)"))
    }
    #expect(given == (2..<8).map { ["10.1.0.\($0)/28", "fd01::\($0)/64"] })
    // Each releases what the other gave, and finds what the other has.
    try network.manager.check(attachment("c1"), has: [IPAddress("10.1.0.3")!, IPAddress("fd01::3")!])
    try network.manager.release(attachment("c1"))
    #expect(try network.referenceDelete("c0") == 0)
    #expect(network.given.count == 8)
    // Each refuses what the other gave already.
    #expect(throws: IPAMError.self) { try network.add("c3") }
    #expect(try network.referenceAdd("c2") == [])
    // Round robin goes on where the other stopped, and both find the end.
    for index in 8..<15 {
      given.append(try index % 2 == 0 ? network.referenceAdd("c\(index)") : network.add("c\(index)"))
    }
    #expect(given[6...].map { $0.first! } == (8..<15).map { "10.1.0.\($0)/28" })
    #expect(try network.add("d0") == ["10.1.0.2/28", "fd01::f/64"])
    #expect(try network.referenceAdd("d1") == ["10.1.0.3/28", "fd01::10/64"])
    #expect(try network.referenceAdd("d2") == [])
    #expect(#expect(throws: IPAMError.self) { try network.add("d2") }?.kind == .exhausted)
  }

  @Test(
    "IPAM-6: the reference plugin and Kalsae at once on one store give no address twice",
    .enabled(if: ReferencePlugin.hasHostLocal, ReferencePlugin.needed))
  func concurrent() async throws {
    let network = try Network("10.1.0.0/24")
    let (manager, configuration) = (network.manager, network.configuration)
    let given = try await withThrowingTaskGroup(of: [String].self) { group in
      for worker in 0..<4 {
        group.addTask {
          var given: [String] = []
          for step in 0..<10 {
            let container = "w\(worker)-\(step)"
            if worker % 2 == 0 {
              let request = AssignRequest(attachment(container), node: "a")
              given += try manager.assign(request).addresses.map { "\($0.address)" }
            } else {
              let (status, output) = try ReferencePlugin.run("host-local", "ADD", configuration, container: container)
              #expect(status == 0, "\(output)")
              given += output.matches(of: /"address": "([0-9.]+)\//).map { String($0.1) }
            }
          }
          return given
        }
      }
      return try await group.reduce(into: []) { $0 += $1 }
    }
    #expect(given.count == 40 && Set(given).count == 40)
    #expect(network.given.count == 40)
  }
}

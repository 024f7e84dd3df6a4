import Addresses
import CNI
import Foundation
import IPAM
import Testing

/// `kalsae-ipam`, as another CNI plugin starts it.
@Suite("IPAM plugin")
struct PluginTests {
  private static let program = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
    .appending(path: "kalsae-ipam")

  private func run(_ command: String?, _ input: String, container: String = "c1", arguments: String = "") throws -> (
    status: Int32, output: JSON?, text: String
  ) {
    let process = Process()
    process.executableURL = Self.program
    process.environment = [
      "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0", "CNI_NETNS": "/proc/self/ns/net", "CNI_PATH": "/usr/lib/cni",
      "CNI_ARGS": arguments,
    ]
    if let command { process.environment!["CNI_COMMAND"] = command }
    let (standardInput, output) = (Pipe(), Pipe())
    process.standardInput = standardInput
    process.standardOutput = output
    process.standardError = output
    try process.run()
    try standardInput.fileHandleForWriting.write(contentsOf: Data(input.utf8))
    try standardInput.fileHandleForWriting.close()
    let octets = [UInt8](output.fileHandleForReading.readDataToEndOfFile())
    process.waitUntilExit()
    return (process.terminationStatus, try? JSON(parsing: octets), String(decoding: octets, as: UTF8.self))
  }

  private func configuration(_ folder: String, _ more: String = "", version: String = "1.1.0") -> String {
    """
    {"cniVersion": "\(version)", "name": "net", "type": "x", \(more) "ipam": {"type": "kalsae-ipam", "node": "a",
     "store": "\(folder)/ipam.db", "state": "\(folder)/state"}}
    """
  }

  @Test("Block mode for other CNI plugins: ADD, CHECK, GC, STATUS, DEL, VERSION, in old versions too (CNI-8)")
  func life() throws {
    let folder = try TemporaryFolder("plugin")
    let state = "\(folder.path)/state"
    try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
    let plain = configuration(folder.path)
    #expect(try run("STATUS", plain).output?["code"] == .number(50))
    let pools = ["10.7.0.0/24", "fd07::/112"].enumerated().map { index, cidr in
      "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p\(index)}\nspec: {cidr: \"\(cidr)\"}\n"
    }
    try Data(pools.joined(separator: "---\n").utf8).write(to: URL(filePath: "\(state)/pools.yaml"))
    #expect(try run("STATUS", plain).status == 0)

    let added = try run("ADD", plain, arguments: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web")
    #expect(added.status == 0, "\(added.text)")
    let ips = (added.output?["ips"]?.elements ?? []).compactMap { $0["address"]?.text }
    #expect(ips.count == 2 && ips[0].hasSuffix("/32") && ips[1].hasSuffix("/128"))
    let check = configuration(folder.path, "\"prevResult\": \(added.output?.serialized ?? ""),")
    #expect(try run("CHECK", check).status == 0)
    #expect(try run("CHECK", check, container: "c2").output?["code"] == .number(CNIError.Code.checkFailed.rawValue))

    let old = try run("ADD", configuration(folder.path, version: "0.4.0"), container: "c2")
    #expect(old.output?["ips"]?.elements?.first?["version"] == .string("4"))
    #expect(
      try run(
        "GC", configuration(folder.path, #""cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],"#)
      ).status == 0)
    let store = try SQLiteStore(path: "\(folder.path)/ipam.db")
    func attachments() throws -> [String] {
      try Bench(store, []).manager.snapshot().handles.keys.map(\.containerID).sorted()
    }
    #expect(try attachments() == ["c1"])
    for _ in 0..<2 { #expect(try run("DEL", plain).status == 0) }
    #expect(try attachments() == [])
    #expect(
      try run("VERSION", "{\"cniVersion\": \"1.1.0\"}").output?["supportedVersions"]?.elements?.last == .string("1.1.0")
    )
    #expect(try run(nil, "").text.contains("kalsae-ipam, an IPAM plugin"))
  }

  @Test(
    "CNI-9: a section that makes no sense is refused with the field",
    arguments: [
      (#""mode": "magic""#, "ipam.mode"), (#""mode": "warm-pool""#, "warm-pool"),
      (#""families": ["IPX"]"#, "ipam.families"),
      (#""assign_ipv4": "maybe""#, "ipam.assign_ipv4"), (#""pools": "all""#, "ipam.pools"),
      (#""mode": "host-local", "ranges": []"#, "ranges"), (#""mode": "host-local", "subnet": "10.0.0.5/24""#, "subnet"),
      (#""mode": "host-local", "subnet": "10.0.0.0/24", "rangeStart": "10.9.0.1""#, "rangeStart"),
    ])
  func refused(section: String, field: String) throws {
    let folder = try TemporaryFolder("refused")
    let input = """
      {"cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": {"type": "kalsae-ipam", "store": "\(folder.path)/ipam.db",
       "state": "\(folder.path)", "dataDir": "\(folder.path)/data", \(section)}}
      """
    let answer = try run("ADD", input)
    #expect(answer.status == 1 && answer.output?["code"] == .number(7), "\(answer.text)")
    #expect(answer.output?["msg"]?.text?.contains(field) == true, "\(answer.text)")
  }
}

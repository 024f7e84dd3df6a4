import Addresses
import CNI
import IPAM
import Lab
import Logging
import Testing

@testable import Agent

@Suite("Warm pools in the agent")
struct WarmPoolTests {
  @Test("IPAM-3: what serves the plugin keeps a warm pool at its targets without being asked", .timeLimit(.minutes(4)))
  func maintenance() async throws {
    let lab = try Lab(name: "warm")
    defer { lab.cleanUp() }
    let folder = try lab.directory()
    let provider = SimulatedProvider(
      limits: InterfaceLimits(interfaces: 3, addressesPerInterface: 6), subnet: IPPrefix("10.60.0.0/24")!)
    let managers = AddressManagers(node: "a", storePath: "\(folder)/ipam.db", provider: provider)
    let service = try CNIService(
      node: "a", dataDirectory: "\(folder)/data", control: ControlQueue(), managers: managers,
      log: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }))
    let server = try CNIServer("\(folder)/a.cni", service: service, log: service.log)
    let request = CNIRequest(
      .add, containerID: "c1", namespacePath: "/proc/self/ns/net", interface: "eth0",
      configuration: try NetworkConfiguration(
        parsing: Array(
          #"{"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "kalsae", "mode": "warm-pool", "warm_ip_target": 4}}"#
            .utf8)))
    let pool = try #require(managers.manager(for: request) as? WarmPoolManager)
    #expect(try pool.status().total == 0 && managers.needsMaintenance)
    try server.start()
    defer { server.stop() }
    while try pool.status().total < 4 { try await Task.sleep(for: .milliseconds(20)) }
    // A pod takes one, and another is got for the next.
    _ = try pool.assign(managers.assignRequest(for: request))
    while try pool.status().total < 5 { try await Task.sleep(for: .milliseconds(20)) }
  }
}

import Addresses
import Compiler
import Dataplane
import Model
import Node
import Testing

@testable import Agent

/// What of services the agent takes from the host.
@Suite("Doors")
struct DoorTests {
  private let own = IPAddress("10.0.0.1")!

  /// The doors of a node with these services; `addresses`: what the machine has.
  private func doors(
    _ services: [Model.Service], blocks: [String] = ["10.96.0.0/16"], addresses: [String] = ["10.0.0.1"],
    usesMasquerade: Bool = true, devices: [String] = []
  ) throws -> (doors: Doors, version: Int) {
    let compiler = NodeCompiler(node: "a")
    var node = Model.Node(metadata: ObjectMetadata(name: "a"))
    node.addresses = [NodeAddress(.internalIP, own)]
    compiler.apply([.upsert(.node(node))])
    compiler.apply(services.map { .upsert(.service($0)) })
    var spec = NodeConfiguration.Spec()
    spec.serviceCIDRs = blocks.map { IPPrefix($0)! }
    compiler.apply([
      .upsert(.nodeConfiguration(NodeConfiguration(metadata: ObjectMetadata(name: "default"), spec: spec)))
    ])
    let dataPath = DataPath(flowLimit: 1024)
    dataPath.change { compiler.commit(to: &$0) }
    let services = compiler.serviceDoors
    let source = Doors.Source(
      version: services.version, own: Set(addresses.map { IPAddress($0)! }), nodePortAddresses: [own],
      masquerade: [own], blocks: services.blocks, usesMasquerade: usesMasquerade,
      devices: devices)
    return (Agent.doors(services, source, masqueradePorts: compiler.masqueradePorts), services.version)
  }

  private func service(
    _ name: String, _ clusterIP: String, ports: [(UInt16, UInt16?)] = [(80, nil)], external: [String] = []
  ) -> Model.Service {
    var service = Model.Service(metadata: ObjectMetadata(name: name, namespace: "shop"), type: .nodePort)
    service.clusterIPs = [IPAddress(clusterIP)!]
    service.ports = ports.enumerated().map {
      Model.ServicePort(name: "p\($0.offset)", protocol: .tcp, port: $0.element.0, nodePort: $0.element.1)
    }
    service.externalIPs = external.map { IPAddress($0)! }
    return service
  }

  @Test("KP-23 NODE-3: NodePorts that follow each other are one range, others are apart; nothing else of the host's")
  func nodePorts() throws {
    let services = [
      service("a", "10.96.0.1", ports: [(80, 30080), (81, 30081)]), service("b", "10.96.0.2", ports: [(80, 30082)]),
      service("c", "10.96.0.3", ports: [(80, 31000)]),
    ]
    let doors = try doors(services).doors
    #expect(doors.prefixes == [IPPrefix("10.96.0.0/16")!])
    let tcp = doors.atHost.filter { $0.transport == 6 }
    #expect(tcp.map(\.ports) == [[30080...30082, 31000...31000], [61000...65534]])
    #expect(tcp.allSatisfy { $0.addresses == [own] })
    // UDP and SCTP have no NodePort here: the masqueraded ports alone.
    #expect(doors.atHost.filter { $0.transport != 6 }.map(\.ports) == [[61000...65534], [61000...65534]])
    #expect(
      doors.rules.filter { $0.transport == 6 }.compactMap(\.destinationPorts).sorted { $0.lowerBound < $1.lowerBound }
        == [30080...30082, 31000...31000, 61000...65534])
    #expect(doors.addresses == [own])
  }

  @Test("KP-23 who sends to a service by another device is led to the data plane, and masqueraded ports are not")
  func devices() throws {
    let services = [
      service("a", "10.96.0.1", ports: [(80, 30080)]),
      service("b", "10.96.0.2", ports: [(443, nil)], external: ["10.0.0.1"]),
    ]
    let doors = try doors(services, devices: ["eth1", "eth2"]).doors
    func rules(_ ports: ClosedRange<UInt16>) -> [String] {
      doors.rules.filter { $0.destinationPorts == ports && $0.transport == 6 }.compactMap(\.incoming).sorted()
    }
    #expect(rules(30080...30080) == ["eth1", "eth2", "lo"])
    #expect(rules(443...443) == ["eth1", "eth2", "lo"])
    #expect(rules(61000...65534) == ["lo"])
  }

  @Test(
    "addresses outside of the service blocks are taken whole; of those that the machine has, the service's ports alone")
  func externalAddresses() throws {
    let services = [
      service("a", "10.97.0.1", external: ["192.0.2.7"]),
      service("b", "10.96.0.2", ports: [(443, nil)], external: ["10.0.0.1", "192.0.2.8"]),
    ]
    let doors = try doors(services, addresses: ["10.0.0.1", "192.0.2.8"]).doors
    #expect(doors.prefixes == ["10.96.0.0/16", "10.97.0.1/32", "192.0.2.7/32"].map { IPPrefix($0)! })
    let precise = doors.atHost.filter { $0.ports == [443...443] }
    #expect(precise.map(\.addresses) == [[own], [IPAddress("192.0.2.8")!]])
    #expect(
      Set(doors.rules.compactMap(\.destination)) == [IPPrefix("10.0.0.1/32")!, IPPrefix("192.0.2.8/32")!])
  }

  @Test("without services and masquerade nothing is taken from the host") func none() throws {
    let doors = try doors([], blocks: [], usesMasquerade: false).doors
    #expect(doors.prefixes.isEmpty && doors.atHost.isEmpty && doors.rules.isEmpty && doors.addresses.isEmpty)
  }

  @Test("two services at one NodePort: it stays for as long as one of them wants it; other blocks are followed")
  func changes() throws {
    let compiler = NodeCompiler(node: "a")
    let dataPath = DataPath(flowLimit: 1024)
    func commit(_ changes: [Change]) {
      compiler.apply(changes)
      dataPath.change { compiler.commit(to: &$0) }
    }
    let (a, b) = (service("a", "10.96.0.1", ports: [(80, 30080)]), service("b", "10.96.0.2", ports: [(80, 30080)]))
    commit([.upsert(.service(a)), .upsert(.service(b))])
    #expect(compiler.serviceDoors.nodePorts[.ipv4]?.map(\.number) == [30080])
    #expect(Set(compiler.serviceDoors.addresses.keys) == [IPAddress("10.96.0.1")!, IPAddress("10.96.0.2")!])
    let version = compiler.serviceDoors.version
    commit([.delete(a.key)])
    #expect(compiler.serviceDoors.nodePorts[.ipv4]?.map(\.number) == [30080])
    #expect(compiler.serviceDoors.version > version)
    var spec = NodeConfiguration.Spec()
    spec.serviceCIDRs = [IPPrefix("10.96.0.0/16")!]
    commit([.upsert(.nodeConfiguration(NodeConfiguration(metadata: ObjectMetadata(name: "default"), spec: spec)))])
    #expect(compiler.serviceDoors.addresses.isEmpty)
    #expect(compiler.serviceDoors.nodePorts[.ipv4]?.map(\.number) == [30080])
    commit([.delete(b.key)])
    #expect(compiler.serviceDoors.nodePorts[.ipv4]?.isEmpty == true)
  }
}

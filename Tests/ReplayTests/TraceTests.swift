import Addresses
import Foundation
import Model
import Replay
import Testing

@Suite("Trace")
struct TraceTests {
  private func state(_ golden: String) throws -> State {
    try loadWholeState(GoldenCase.folder.appending(path: "\(golden)/state").path)
  }

  private func tracer(_ golden: String, node: String = "node-a") throws -> Tracer {
    try Tracer(node: node, in: state(golden))
  }

  @Test(
    "The line of an answer is the encoder's, octet for octet", arguments: ["services", "policy", "vxlan-over-ipv4"])
  func line(_ golden: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    let tracer = try tracer(golden)
    var verdicts: Set<ProbeAnswer.Verdict> = []
    for to in ["default/a", "default/b", "10.96.0.10", "10.96.0.1", "10.0.0.1", "192.0.2.1", "169.254.1.1"] {
      for transport in ["TCP", "UDP", "ICMP"] {
        var answer = try tracer.answer(Probe(from: "default/a", to: to, protocol: transport, port: "80"))
        verdicts.insert(answer.verdict)
        #expect(try answer.json(pretty: false) == String(decoding: encoder.encode(answer), as: UTF8.self))
        answer.steps[0].stage = "칼새 🐦"
        answer.steps[0].detail = "\u{0}\u{8}\t\n\u{c}\r\u{1f} \u{7f}\"\\/"
        answer.out = nil
        answer.service.name = nil
        #expect(try answer.json(pretty: false) == String(decoding: encoder.encode(answer), as: UTF8.self))
      }
    }
    #expect(verdicts.count > 2)
  }

  @Test("KP-15 KP-50 the same question has the same answer, whatever was asked before") func sameAnswer() throws {
    var state = try state("services")
    var service = try #require(state.service("default", "one"))
    var slice = try #require(state.endpointSlices.values.first { $0.service == service.key })
    slice.endpoints = (1...9).map { EndpointSlice.Endpoint([IPAddress("10.244.1.\($0)")!], nodeName: "node-b") }
    service.affinitySeconds = 86400
    for resource in [service.resource, slice.resource] { state.apply(.upsert(resource)) }
    let tracer = try Tracer(node: "node-a", in: state)
    func answers(_ ports: [UInt16]) throws -> [UInt16: String] {
      try ports.reduce(into: [:]) { answers, port in
        let probe = Probe(from: "default/a", to: "10.96.0.1", protocol: "TCP", port: "80", sourcePort: port)
        answers[port] = try tracer.answer(probe).json(pretty: false)
      }
    }
    let ports = Array(UInt16(1000)..<1020)
    let first = try answers(ports)
    #expect(try answers(ports.reversed()) == first)
    #expect(first.values.allSatisfy { $0.contains("10.244.1.9:8080") })
  }

  @Test("KP-24 a packet from 127.0.0.1 is the node's own") func localhost() throws {
    var state = try state("services")
    var service = try #require(state.service("default", "one"))
    service.type = .nodePort
    service.ports[0].nodePort = 30080
    state.apply(.upsert(service.resource))
    let probe = Probe(from: "127.0.0.1", to: "127.0.0.1", protocol: "TCP", port: "30080")
    #expect(try Tracer(node: "node-a", in: state).answer(probe).verdict == .drop)
    var configuration = try #require(state.nodeConfigurations.values.first)
    configuration.spec.localhostNodePorts = true
    state.apply(.upsert(configuration.resource))
    let answer = try Tracer(node: "node-a", in: state).answer(probe)
    #expect(answer.service.name == "default/one:http" && answer.service.masquerade)
    #expect(answer.service.verdict == "translate" && answer.reason == nil)
    let elsewhere = Probe(from: "default/a", to: "127.0.0.1", protocol: "TCP", port: "30080")
    #expect(try Tracer(node: "node-a", in: state).answer(elsewhere).service.verdict == "drop")
  }

  struct Question: CustomTestStringConvertible, Sendable {
    var from: String
    var to: String
    var transport = "TCP"
    var verdict: ProbeAnswer.Verdict
    var reason: String?
    var port: String?
    var tunnel: String?
    var nextHop: String?
    var testDescription: String { "\(transport) \(from) > \(to)" }
  }

  @Test(
    "Each verdict, from where the packet comes in",
    arguments: [
      // A pod here to a pod there, in the tunnel that the pool asks for (NODE-5).
      Question(
        from: "default/a", to: "default/b", verdict: .forward, port: "underlay", tunnel: "VXLAN", nextHop: "10.0.0.2"),
      Question(
        from: "default/a", to: "fd00:244:0:1::7", transport: "ICMP", verdict: .forward, port: "underlay",
        tunnel: "VXLAN", nextHop: "10.0.0.2"),
      Question(from: "default/a", to: "default/a2", transport: "SCTP", verdict: .deliver, port: "default/a2"),
      // A pod there arrives in its tunnel.
      Question(from: "default/b", to: "default/a", transport: "UDP", verdict: .deliver, port: "default/a"),
      Question(from: "default/b", to: "10.244.0.5", verdict: .deliver, port: "default/a"),
      Question(from: "192.0.2.1", to: "default/a", verdict: .deliver, port: "default/a"),
      // The host, from it, and to it.
      Question(from: "10.0.0.1", to: "default/a", verdict: .deliver, port: "default/a"),
      Question(from: "default/a", to: "10.0.0.1", verdict: .deliver, port: "host"),
      Question(from: "10.0.0.2", to: "10.0.0.1", verdict: .deliver, port: "host"),
      Question(from: "default/a", to: "198.51.100.1", transport: "UDP", verdict: .forward, port: "host"),
      Question(from: "default/a", to: "10.0.0.2", verdict: .forward, port: "underlay", nextHop: "10.0.0.2"),
      // Answered here (NODE-1).
      Question(from: "default/a", to: "169.254.1.1", transport: "icmp", verdict: .answer, port: "default/a"),
      // Dropped, and why.
      Question(from: "default/a", to: "10.244.0.77", verdict: .drop, reason: "blackhole"),
      Question(from: "default/a", to: "default/a", verdict: .drop, reason: "hairpin"),
      Question(from: "default/b", to: "10.244.0.77", verdict: .drop, reason: "blackhole"),
      Question(from: "192.0.2.1", to: "default/b", verdict: .drop, reason: "transit"),
      Question(from: "224.0.0.1", to: "default/a", verdict: .drop, reason: "invalidSource"),
      Question(from: "default/a", to: "127.0.0.1", verdict: .drop, reason: "invalidDestination"),
      Question(from: "default/a", to: "169.254.1.1", verdict: .drop, reason: "invalidDestination"),
    ])
  func verdicts(_ question: Question) throws {
    let answer = try tracer("vxlan-over-ipv4").answer(
      Probe(from: question.from, to: question.to, protocol: question.transport, port: "80"))
    #expect(answer.verdict == question.verdict)
    #expect(answer.reason == question.reason)
    #expect(answer.out?.port == question.port)
    #expect(answer.out?.tunnel == question.tunnel)
    #expect(answer.out?.nextHop == question.nextHop)
    #expect(answer.steps.count >= 3)
  }

  @Test(
    "NODE-5 a packet from a pod elsewhere arrives in the tunnel of its pool",
    arguments: [
      ("ipip-over-ipv4", "IPIP"), ("gre-over-ipv6", "GRE"), ("vxlan-over-ipv6", "VXLAN"),
      ("geneve-over-ipv4", "Geneve"),
      ("gre-key-checksum-sequence", "GRE"),
    ])
  func arrival(_ golden: String, _ tunnel: String) throws {
    for address in ["10.244.0.5", "fd00:244::5"] {
      let answer = try tracer(golden).answer(Probe(from: "default/b", to: address, protocol: "TCP", port: "80"))
      #expect(answer.verdict == .deliver)
      #expect(answer.steps.contains { $0.stage == "decapsulate" && $0.detail.hasPrefix("\(tunnel) from node node-b") })
    }
    let direct = try tracer("direct").answer(Probe(from: "default/b", to: "default/a", protocol: "TCP", port: "80"))
    #expect(direct.verdict == .deliver)
    #expect(!direct.steps.contains { $0.stage == "decapsulate" })
  }

  @Test("NODE-6 TUN-7 a packet that is too big is rejected with the size that fits")
  func tooBig() throws {
    let tracer = try tracer("vxlan-over-ipv4")
    let fits = try tracer.answer(Probe(from: "default/a", to: "default/b", protocol: "UDP", port: "9", size: 1450))
    #expect(fits.verdict == .forward)
    let big = try tracer.answer(Probe(from: "default/a", to: "default/b", protocol: "UDP", port: "9", size: 1451))
    #expect(big.verdict == .reject)
    #expect(big.reason == "tooBig")
    #expect(big.out?.port == "default/a")
    #expect(big.steps.contains { $0.stage == "hop" && $0.detail.contains("takes packets up to 1450 octets") })
    #expect(big.steps.contains { $0.stage == "error" && $0.detail.contains("fragmentation needed") })
  }

  @Test("No probe colours the next: the same question has the same answer, in any order")
  func independence() throws {
    let tracer = try tracer("vxlan-over-ipv4")
    let probes = [
      Probe(from: "default/a", to: "default/b", protocol: "TCP", port: "80"),
      Probe(from: "default/b", to: "default/a", protocol: "TCP", port: "40000", sourcePort: 80),
      Probe(from: "default/a", to: "10.244.0.77", protocol: "UDP", port: "53"),
      Probe(from: "default/a", to: "default/b", protocol: "UDP", port: "9", size: 1500),
    ]
    let first = try probes.map { try tracer.answer($0) }
    for _ in 0..<200 {
      for (probe, wanted) in zip(probes, first).reversed() { #expect(try tracer.answer(probe) == wanted) }
    }
  }

  @Test("NP-5 a named port is looked up on the destination pod")
  func namedPort() throws {
    var state = try state("direct")
    var pod = try #require(state.pod("default", "a"))
    pod.ports = [ContainerPort(name: "http", number: 8080)]
    state.apply(.upsert(pod.resource))
    let tracer = try Tracer(node: "node-a", in: state)
    let answer = try tracer.answer(Probe(from: "192.0.2.1", to: "default/a", protocol: "tcp", port: "http"))
    #expect(answer.steps.last?.detail.contains("10.244.0.5.8080") == true)
    #expect(
      throws: ReplayError(.missing, "port: Pod default/a has no TCP port named htpt: did you mean http?")
    ) {
      try tracer.answer(Probe(from: "192.0.2.1", to: "default/a", protocol: "tcp", port: "htpt"))
    }
  }

  @Test(
    "What makes no sense is told with field and remedy",
    arguments: [
      (Probe(from: "default/x", to: "default/a", protocol: "TCP", port: "1"), "from: no Pod default/x: did you mean"),
      (
        Probe(from: "a", to: "default/a", protocol: "TCP", port: "1"),
        "from: a is neither an address nor namespace/pod; write namespace/pod: default/a"
      ),
      (Probe(from: "default/a", to: "default/b", protocol: "TCP"), "port: is missing"),
      (Probe(from: "default/a", to: "default/b", protocol: "TPC", port: "1"), "protocol: TPC is none of"),
      (Probe(from: "default/a", to: "default/b", protocol: "TCP", port: "0"), "port: 0 is not from 1 to 65535"),
      (Probe(from: "default/a", to: "192.0.2.1", protocol: "TCP", port: "http"), "port: http is a name, but"),
      (
        Probe(from: "10.0.0.9", to: "fd00::1", protocol: "TCP", port: "1"),
        "from 10.0.0.9 and to fd00::1 have no address"
      ),
      (Probe(from: "default/a", to: "default/b", protocol: "UDP", port: "1", size: 20), "size: 20 is not from 28"),
    ])
  func refusals(_ probe: Probe, _ message: String) throws {
    let tracer = try tracer("direct")
    let error = #expect(throws: ReplayError.self) { try tracer.answer(probe) }
    #expect(error?.message.hasPrefix(message) == true, "\(error?.message ?? "")")
  }

  @Test("A line of a batch is one object, with ports as numbers or names")
  func json() throws {
    let line = #"{"from":"default/a","to":"default/b","protocol":"TCP","port":80,"sourcePort":1234,"more":true}"#
    #expect(
      try Probe(json: line.utf8)
        == Probe(from: "default/a", to: "default/b", protocol: "TCP", port: "80", sourcePort: 1234))
    #expect(try Probe(json: #"{"from":"a","to":"b","protocol":"TCP","port":"http"}"#.utf8).port == "http")
    for bad in ["", "[]", "{", #"{"from":"a","to":"b"}"#, #"{"from":1,"to":"b","protocol":"TCP"}"#] {
      #expect(throws: ReplayError.self) { try Probe(json: bad.utf8) }
    }
    let answer = try tracer("direct").answer(Probe(json: line.utf8))
    #expect(!answer.json(pretty: false).contains("\n"))
    let object = try JSONSerialization.jsonObject(with: Data(answer.json(pretty: false).utf8)) as? [String: Any]
    #expect(Set(object?.keys.map { $0 } ?? []) == ["verdict", "reason", "out", "steps", "service", "policy"])
  }

  @Test("An unknown node is told with the nearest name")
  func unknownNode() throws {
    let error = #expect(throws: ReplayError.self) { try Tracer(node: "node-q", in: state("direct")) }
    #expect(error?.message.hasPrefix("no Node node-q in the state: did you mean node-") == true)
  }
}

import Addresses
import Testing

@testable import Model

private func policy(_ spec: String) -> String {
  "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: {\(spec)}\n"
}

@Suite struct NetworkPolicyTests {
  @Test(
    "NP-2 policyTypes default to Ingress, plus Egress where there are egress rules",
    arguments: [
      ("podSelector: {}", [NetworkPolicy.Direction.ingress]), ("podSelector: {}, egress: []", [.ingress]),
      ("podSelector: {}, egress: [{}]", [.ingress, .egress]), ("podSelector: {}, ingress: [{}]", [.ingress]),
      ("podSelector: {}, policyTypes: [Egress]", [.egress]), ("podSelector: {}, policyTypes: []", [.ingress]),
      ("podSelector: {}, policyTypes: [Ingress], egress: [{}]", [.ingress]),
    ])
  func types(spec: String, expected: [NetworkPolicy.Direction]) throws {
    let read = try Read(policy(spec)).only(NetworkPolicy.self)
    #expect(read.policyTypes == Set(expected) && read.podSelector.isEmpty)
    #expect(read.key.description == "NetworkPolicy shop/p")
  }

  @Test("NP-1 NP-3 NP-4 NP-5 a NetworkPolicy tells its rules, peers and ports")
  func all() throws {
    let read = try Read(
      """
      apiVersion: networking.k8s.io/v1
      kind: NetworkPolicy
      metadata: {name: p}
      spec:
        podSelector: {matchExpressions: [{key: app, operator: In, values: [web, api]}]}
        policyTypes: [Ingress, Egress]
        ingress:
        - from:
          - podSelector: {matchLabels: {role: client}}
          - namespaceSelector: {}
          - {namespaceSelector: {matchLabels: {team: a}}, podSelector: {}}
          - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.3.4/32]}
          ports:
          - port: 80
          - {protocol: UDP, port: 30000, endPort: 32767}
          - {protocol: SCTP}
          - {port: http}
        - {}
        egress:
        - to: [{ipBlock: {cidr: "fd00::/8"}}]
      """
    ).only(NetworkPolicy.self)
    let app = LabelSelector(matchExpressions: [.init(key: "app", operator: .in, values: ["web", "api"])])
    #expect(read.podSelector == app && read.policyTypes == [.ingress, .egress])
    #expect(read.ingress.count == 2 && read.ingress[1] == NetworkPolicy.Rule())
    #expect(
      read.ingress[0].peers == [
        .pods(namespaces: nil, pods: LabelSelector(matchLabels: ["role": "client"])),
        .pods(namespaces: LabelSelector(), pods: nil),
        .pods(namespaces: LabelSelector(matchLabels: ["team": "a"]), pods: LabelSelector()),
        .block(.init(IPPrefix("10.0.0.0/8")!, except: [IPPrefix("10.1.0.0/16")!, IPPrefix("10.2.3.4/32")!])),
      ])
    #expect(
      read.ingress[0].ports == [
        .init(.tcp, .range(80...80)), .init(.udp, .range(30000...32767)), .init(.sctp, .any),
        .init(.tcp, .named("http")),
      ])
    #expect(read.egress == [.init(peers: [.block(.init(IPPrefix("fd00::/8")!))])])
  }

  @Test("NP-4 a block holds what none of its exceptions holds")
  func block() {
    let block = NetworkPolicy.IPBlock(IPPrefix("10.0.0.0/8")!, except: [IPPrefix("10.1.0.0/16")!])
    #expect(block.contains(IPAddress("10.2.0.1")!) && !block.contains(IPAddress("10.1.0.1")!))
    #expect(!block.contains(IPAddress("11.0.0.1")!) && !block.contains(IPAddress("fd00::1")!))
  }

  @Test("NP-4 a namespace without an object of its own has its name as a label")
  func namespaceLabels() {
    var state = State()
    #expect(state.labels(ofNamespace: "shop") == ["kubernetes.io/metadata.name": "shop"])
    state.apply(.upsert(Namespace(metadata: ObjectMetadata(name: "shop", labels: ["team": "a"])).resource))
    #expect(state.labels(ofNamespace: "shop") == ["kubernetes.io/metadata.name": "shop", "team": "a"])
  }

  @Test(
    "NP-4 NP-5 what the API server would refuse in a NetworkPolicy is refused, with the remedy",
    arguments: [
      ("ingress: [{from: [{}]}]", "spec.ingress[0].from[0]: names no peer; give it podSelector"),
      ("ingress: [{from: [null]}]", "spec.ingress[0].from[0]: is null"),
      ("ingress: [null]", "spec.ingress[0]: is null"),
      (
        "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]",
        "spec.ingress[0].from[0].podSelector: may not stand beside ipBlock"
      ),
      ("ingress: [{from: [{ipBlock: {}}]}]", "spec.ingress[0].from[0].ipBlock.cidr: is missing"),
      (
        "egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]",
        "spec.egress[0].to[0].ipBlock.except[0]: 11.0.0.0/16 is not a smaller block inside of cidr, which is 10.0.0.0/8"
      ),
      ("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]", "is not a smaller block inside"),
      ("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}]}]", "is not a smaller block inside"),
      ("egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]", "expected a block in CIDR notation"),
      ("ingress: [{ports: [{endPort: 90}]}]", "spec.ingress[0].ports[0].endPort: is given without port"),
      ("ingress: [{ports: [{port: http, endPort: 90}]}]", "endPort: may not be used with a named port"),
      ("ingress: [{ports: [{port: 91, endPort: 90}]}]", "endPort: 90 is less than port, which is 91; make it 91"),
      ("ingress: [{ports: [{port: 1, endPort: 65536}]}]", "endPort: expected a whole number from 1 to 65535"),
      ("ingress: [{ports: [{port: 0}]}]", "port: expected a whole number from 1 to 65535, found the number 0"),
      ("ingress: [{ports: [{port: '80'}]}]", "write 80 without the quotes"),
      ("ingress: [{ports: [{port: HTTP}]}]", "is not a valid port name"),
      ("ingress: [{ports: [{protocol: ICMP}]}]", "expected one of TCP, UDP, SCTP, found \"ICMP\""),
      ("policyTypes: [ingress]", "spec.policyTypes[0]: expected one of Ingress, Egress, found \"ingress\""),
      (
        "podSelector: {matchExpressions: [{key: a, operator: In}]}",
        "spec.podSelector.matchExpressions[0].values: must not be empty"
      ),
      (
        "podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
        "spec.podSelector.matchExpressions[0].values: must be empty"
      ),
    ])
  func refused(spec: String, message: String) throws { try expectRefusal(spec, message) }

  @Test(
    "NP-1 NP-3 an unknown field could be a restriction, so it is refused",
    arguments: [
      ("order: 1", "spec.order: unknown field"), ("policyType: [Egress]", "did you mean policyTypes?"),
      ("ingress: [{form: []}]", "spec.ingress[0].form: unknown field; did you mean from?"),
      ("ingress: [{to: []}]", "spec.ingress[0].to: unknown field"),
      ("ingress: [{from: [{podSelector: {}, podSelectors: {}}]}]", "did you mean podSelector?"),
      ("ingress: [{from: [{podSelector: {matchLabel: {a: b}}}]}]", "did you mean matchLabels?"),
      ("podSelector: {app: web}", "spec.podSelector.app: unknown field"),
      ("podSelector: {matchExpressions: [{key: a, operator: In, value: [b], values: [b]}]}", "did you mean values?"),
      ("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, excepts: []}}]}]", "did you mean except?"),
      ("ingress: [{ports: [{port: 80, endport: 90}]}]", "did you mean endPort?"),
    ])
  func unknown(spec: String, message: String) throws { try expectRefusal(spec, message) }

  private func expectRefusal(_ spec: String, _ message: String) throws {
    let read = try Read(policy(spec))
    #expect(read.resources.isEmpty)
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
    #expect(read.errors.allSatisfy { $0.hasPrefix("test.yaml:4:") && $0.contains(": NetworkPolicy shop/p: spec") })
  }
}

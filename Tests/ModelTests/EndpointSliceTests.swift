import Addresses
import Testing

@testable import Model

private func slice(_ rest: String, metadata: String = "name: web-x7d9k") -> String {
  "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {\(metadata)}\n\(rest)\n"
}

@Suite struct EndpointSliceTests {
  @Test("KP-3 KP-5 KP-13 KP-55 an EndpointSlice tells its endpoints, ports and service")
  func all() throws {
    let read = try Read(
      """
      apiVersion: discovery.k8s.io/v1
      kind: EndpointSlice
      metadata:
        name: web-x7d9k
        namespace: shop
        labels: {kubernetes.io/service-name: web}
        annotations: {endpoints.kubernetes.io/last-change-trigger-time: "2024-02-29T12:00:01.5Z"}
      addressType: IPv4
      ports:
      - {name: http, port: 8080}
      - {name: dns, protocol: UDP, port: 53}
      - {name: any}
      endpoints:
      - addresses: [10.244.1.2, 10.244.1.3]
        conditions: {ready: false, serving: true, terminating: true}
        nodeName: n1
        zone: z1
        hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: n1}]}
        targetRef: {kind: Pod, name: web-0, namespace: shop, uid: abc}
      - addresses: [10.244.2.2]
      """
    ).only(EndpointSlice.self)
    #expect(read.service == ObjectKey(.service, namespace: "shop", name: "web") && !read.isHeadless)
    #expect(read.addressType == .ipv4)
    #expect(read.lastChangeTriggerTime == .milliseconds(1_709_208_001_500))
    #expect(
      read.ports == [
        .init(name: "http", protocol: .tcp, port: 8080), .init(name: "dns", protocol: .udp, port: 53),
        .init(name: "any", port: nil),
      ])
    #expect(
      read.endpoints == [
        .init(
          [IPAddress("10.244.1.2")!, IPAddress("10.244.1.3")!], isReady: false, isServing: true, isTerminating: true,
          nodeName: "n1", zone: "z1", zoneHints: ["z1", "z2"], nodeHints: ["n1"],
          pod: ObjectKey(.pod, namespace: "shop", name: "web-0")),
        .init([IPAddress("10.244.2.2")!], isReady: true, isServing: true, isTerminating: false),
      ])
  }

  @Test("KP-1 KP-3 slices without a service, of names and headless ones are told apart")
  func others() throws {
    let fqdn = try Read(slice("addressType: FQDN\nendpoints: [{addresses: [a.example.com]}]")).only(EndpointSlice.self)
    #expect(fqdn.service == nil && fqdn.addressType.family == nil && fqdn.endpoints.map(\.addresses) == [[]])
    let headless = try Read(
      slice("addressType: IPv6\nports: null", metadata: "name: a, labels: {service.kubernetes.io/headless: ''}")
    ).only(EndpointSlice.self)
    #expect(headless.isHeadless && headless.ports == [] && headless.lastChangeTriggerTime == nil)
  }

  @Test(
    "KP-3 what the API server would refuse in an EndpointSlice is refused, with the remedy",
    arguments: [
      ("endpoints: []", "addressType: is missing"), ("addressType: IPv5", "expected one of IPv4, IPv6, FQDN"),
      ("addressType: IPv4, endpoints: [{addresses: []}]", "endpoints[0].addresses: must not be empty"),
      ("addressType: IPv4, endpoints: [{}]", "endpoints[0].addresses: must not be empty"),
      (
        "addressType: IPv4, endpoints: [{addresses: ['fd00::1']}]",
        "endpoints[0].addresses[0]: fd00::1 is no IPv4 address, but addressType is IPv4"
      ),
      ("addressType: IPv4, endpoints: [{addresses: [web]}]", "expected an IPv4 or IPv6 address"),
      ("addressType: IPv4, endpoints: [{addresses: [127.0.0.1]}]", "127.0.0.1 is a loopback address"),
      ("addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {ready: 1}}]", "expected true or false"),
      ("addressType: IPv4, endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{}]}}]", "forZones[0].name: is mis"),
      ("addressType: IPv4, ports: [{port: 65536}]", "ports[0].port: expected a whole number"),
      ("addressType: IPv4, ports: [{port: 1, protocol: tcp}]", "ports[0].protocol: expected one of TCP, UDP, SCTP"),
      ("addressType: IPv4, ports: [{port: 1}, {port: 2}]", "ports[1].name: \"\" stands in this list twice"),
      ("addressType: IPv4, ports: [{port: 1, name: A}]", "is not a valid DNS label"),
    ])
  func refused(text: String, message: String) throws {
    let read = try Read(
      "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, \(text)}")
    #expect(read.resources.isEmpty)
    #expect(read.errors.count == 1 && read.errors[0].contains(message), "\(read.errors)")
  }

  @Test(
    "KP-55 times of RFC 3339 are read",
    arguments: [
      ("1970-01-01T00:00:00Z", Duration.zero), ("2000-03-01T00:00:00Z", .seconds(951_868_800)),
      ("2026-07-04T13:14:15+02:00", .seconds(1_783_163_655)),
      ("1999-12-31T23:59:59.25Z", .milliseconds(946_684_799_250)),
      ("2000-01-01T00:00:00-00:30", .seconds(946_686_600)),
    ])
  func time(text: String, expected: Duration) { #expect(Duration(sinceEpoch: text) == expected) }

  @Test(
    "KP-55 what is no time is passed over",
    arguments: [
      "", "2000-01-01", "2000-01-01T00:00:00", "2000-13-01T00:00:00Z", "2000-01-01T24:00:00Z", "2000-01-01T00:00:00.Z",
      "2000-01-01T00:00:00Zx", "2000-01-01T00:00:00+1:00", "2000-01-01 00:00:00Z", "x000-01-01T00:00:00Z",
    ])
  func noTime(text: String) { #expect(Duration(sinceEpoch: text) == nil) }
}

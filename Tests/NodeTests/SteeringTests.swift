import Addresses
import Glibc
import Lab
import Testing

@testable import EBPF
@testable import Node

extension PacketClassifier {
  /// The same for the kernel's program, at the loopback device.
  fileprivate var steering: Steering {
    var steering = Steering()
    steering.localAddresses = localAddresses
    steering.udpPorts = udpPorts
    steering.protocols = protocols
    steering.destinations = destinations
    steering.doors = doors.map { Steering.Door($0.addresses, transport: $0.transport, ports: $0.ports) }
    steering.sharedDevices = [1]
    return steering
  }
}

/// The program that steers packets and the classifier are one predicate: the classifier's vectors hold for both.
@Suite("Steering (NODE-3)", .enabled(if: Lab.isAvailable, "needs root"))
struct SteeringTests {
  /// The kernel runs no program on less than an Ethernet header, and no program sees a tag that was stripped.
  private static func isSeen(_ c: ClassifierTests.Case) -> Bool { c.packet.count >= 14 && c.vlan & 0xfff == 0 }

  @Test("NODE-3 tunnels, pods and services are the data plane's, the rest is passed: as the classifier says")
  func tunnels() throws {
    let steerer = try Steerer(ClassifierTests().classifier.steering)
    for c in ClassifierTests.cases where SteeringTests.isSeen(c) {
      #expect(try steerer.isOurs(c.packet) == c.isOurs, "\(c.testDescription)")
    }
  }

  @Test("NODE-3 NodePorts and masqueraded connections' ports are the data plane's, at their addresses alone")
  func doors() throws {
    let steerer = try Steerer(ClassifierTests.doors.steering)
    for c in ClassifierTests.doorCases where SteeringTests.isSeen(c) {
      #expect(try steerer.isOurs(c.packet) == c.isOurs, "\(c.testDescription)")
    }
  }

  @Test("NODE-3 of a pod's device everything is the data plane's, of another device nothing")
  func devices() throws {
    var steering = Steering()
    steering.ownDevices = [1]
    let steerer = try Steerer(steering)
    let cases = ClassifierTests.cases.filter(SteeringTests.isSeen)
    for c in cases { #expect(try steerer.isOurs(c.packet), "\(c.testDescription)") }
    steering = ClassifierTests().classifier.steering
    steering.sharedDevices = [1000]
    try steerer.set(steering)
    for c in cases { #expect(try !steerer.isOurs(c.packet), "\(c.testDescription)") }
  }

  @Test("NODE-2 requests for gateways by ARP and neighbour discovery are the data plane's, other requests not")
  func requests() throws {
    var steering = ClassifierTests().classifier.steering
    steering.targets = [IPAddress("169.254.1.1")!, IPAddress("fe80::ecee:eeff:feee:eeee")!]
    let steerer = try Steerer(steering)
    func arp(_ target: String, operation: UInt8 = 1) -> [UInt8] {
      [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation]
        + [2, 0, 0, 0, 0, 1, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0] + IPAddress(target)!.octets
    }
    func solicitation(_ target: String, type: UInt8 = 135) -> [UInt8] {
      let target = IPAddress(target)!.octets
      let group: [UInt8] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff] + target.suffix(3)
      return [0x33, 0x33, 0xff] + target.suffix(3) + [2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]
        + IPAddress("fe80::9")!.octets + group + [type, 0, 0, 0, 0, 0, 0, 0] + target
    }
    #expect(try steerer.isOurs(arp("169.254.1.1")))
    #expect(try !steerer.isOurs(arp("169.254.1.1", operation: 2)))
    #expect(try !steerer.isOurs(arp("10.0.0.1")))
    #expect(try steerer.isOurs(solicitation("fe80::ecee:eeff:feee:eeee")))
    #expect(try !steerer.isOurs(solicitation("fe80::ecee:eeff:feee:eeee", type: 136)))
    #expect(try !steerer.isOurs(solicitation("fe80::1")))
  }

  @Test("What changes is followed, and what goes is forgotten")
  func changes() throws {
    let steerer = try Steerer(Steering())
    func ours(_ cases: [ClassifierTests.Case]) throws -> Int {
      try cases.filter(SteeringTests.isSeen).count { try steerer.isOurs($0.packet) }
    }
    let all = [
      (ClassifierTests().classifier, ClassifierTests.cases), (ClassifierTests.doors, ClassifierTests.doorCases),
    ]
    for _ in 0..<2 {
      for (classifier, cases) in all {
        try steerer.set(classifier.steering)
        #expect(try ours(cases) == cases.count { SteeringTests.isSeen($0) && $0.isOurs })
      }
      try steerer.set(Steering())
      for (_, cases) in all { #expect(try ours(cases) == 0) }
    }
  }

  @Test("NODE-3 At a device it counts what is the data plane's and passes all on where no socket takes it")
  func attached() throws {
    let lab = try Lab(name: "steer")
    defer { lab.cleanUp() }
    let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
    try lab.veth(Endpoint(a, "eth0", addresses: ["10.0.0.1/24"]), Endpoint(b, "eth0", addresses: ["10.0.0.2/24"]))
    func isAttached() throws -> Bool { try b.run("ip", "link", "show", "eth0").check().standardOutput.contains("xdp") }
    var steering = Steering()
    steering.localAddresses = [IPAddress("10.0.0.2")!]
    steering.udpPorts = [4789]
    let interface = try b.withNamespace { unsafe Int32(if_nametoindex("eth0")) }
    steering.sharedDevices = [interface]
    let steerer = try Steerer(steering)
    try b.withNamespace { try steerer.attach(to: interface) }
    #expect(try isAttached())
    #expect(try a.run("ping", "-c", "3", "-i", "0.01", "-W", "2", "10.0.0.2").isSuccess)
    #expect(steerer.counted.passed >= 3 && steerer.counted.withoutSocket == 0)
    for port in [4789, 4790] {
      let send = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 20, ('10.0.0.2', \(port)))"
      #expect(try a.run("/usr/bin/python3", "-c", "import socket; \(send)").isSuccess)
    }
    // VXLAN's port is the data plane's, the other is not.
    try waitUntil("the datagrams") { steerer.counted.withoutSocket == 1 && steerer.counted.passed >= 4 }
    #expect(steerer.counted.taken == 0)
    steerer.detach(from: interface)
    try waitUntil("the device to be without a program") { try !isAttached() }
  }
}

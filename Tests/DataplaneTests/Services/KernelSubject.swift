import Addresses
import EBPF
import Lab
import Ports
import Testing

@testable import Dataplane

/// Who handles the packets of a bench for services.
enum Subject {
  case pipeline
  /// The kernel's programs first, and what they leave the pipeline, as on a machine.
  case kernel

  @TaskLocal static var current = Subject.pipeline
}

/// Runs every test by the pipeline and then, where this is root, by the kernel's programs before it.
struct BothSubjects: SuiteTrait, TestTrait, TestScoping {
  var isRecursive: Bool { true }

  func provideScope(
    for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void
  ) async throws {
    try await function()
    guard testCase != nil, Lab.isAvailable else { return }
    try await Subject.$current.withValue(.kernel) { try await function() }
  }
}

extension Trait where Self == BothSubjects {
  static var bothSubjects: Self { BothSubjects() }
}

/// The kernel's programs before the ports of a bench, with the bench's own tables.
final class KernelSubject {
  private var balancer: PacketBalancer?
  private var surroundings = Surroundings()
  private var revision: UInt64?
  let program: PacketBalancer.Program
  /// Whether what comes from outside is sent whole.
  var isDirect = false
  /// Frames that the program sent on.
  private(set) var handled = 0

  init(_ program: PacketBalancer.Program = .tc) { self.program = program }

  static func ports(_ bench: Bench) -> [PortIndex: BalancedPort] {
    var ports: [PortIndex: BalancedPort] = [:]
    for (number, index) in [bench.podA, bench.podB].enumerated() {
      ports[index] = BalancedPort(
        interface: 100 + Int32(number), mac: Bench.gatewayMAC, peer: Bench.podMAC(bench.own, 10 + number), pod: index,
        isPair: number == 0)
    }
    ports[bench.underlay] = BalancedPort(
      interface: 200, mac: Bench.underlayMAC(bench.own), pod: nil, isPair: false)
    return ports
  }

  private func sync(_ bench: Bench) throws -> PacketBalancer {
    if let balancer, try balancer.apply(bench.tables.takeServiceChanges()) {
      if revision != bench.tables.revision { try set(balancer, bench) }
      return balancer
    }
    var options = PacketBalancer.Options()
    options.programs = [.tc, program]
    options.connectionLimit = 1 << 14
    bench.tables.followServices()
    let balancer = try PacketBalancer(bench.tables.takeServiceChanges(), options: options)
    self.balancer = balancer
    try set(balancer, bench)
    return balancer
  }

  func lease() throws -> PacketBalancer.Lease? { try balancer?.lease() }

  /// Forgets all connections.
  func forget() { balancer = nil }

  private func set(_ balancer: PacketBalancer, _ bench: Bench) throws {
    revision = bench.tables.revision
    surroundings = bench.tables.surroundings(.all)
    // Where the bench knows no way, the machine that the tests run on is not to be asked.
    for prefix in ["0.0.0.0/0", "::/0"] {
      let prefix = IPPrefix(prefix)!
      if surroundings.places[prefix] == nil { surroundings.places[prefix] = Surroundings.Place(way: .own) }
    }
    try balancer.set(
      bench.tables.settings, surroundings, Array(KernelSubject.ports(bench).values), underlay: bench.underlay,
      isDirect: isDirect)
  }

  /// What the program makes of a frame; nil: it leaves it.
  func run(_ frame: MemoryFrame, at index: PortIndex, _ bench: Bench) throws -> Sent? {
    guard let port = KernelSubject.ports(bench)[index], frame.octets.count >= 34, frame.segmentation == .none,
      frame.partialChecksumStart == nil, frame.wireLength == frame.octets.count
    else { return nil }
    let balancer = try sync(bench)
    let before = balancer.drops
    var result = try balancer.run(frame.octets, at: port, surroundings, by: port.pod == nil ? program : .tc)
    if result.verdict == .passed, port.pod == nil, program == .xdp {
      #expect(result.frame == frame.octets)
      result = try balancer.run(frame.octets, at: port, surroundings, by: .tc)
    }
    var sent = Sent()
    let drops = balancer.drops.merging(before) { $0 - $1 }.filter { $0.value != 0 }.mapValues(Int.init)
    switch result.verdict {
    case .passed:
      // What is left must be as it came.
      #expect(result.frame == frame.octets)
      return nil
    case .dropped:
      sent.drops = drops
      #expect(drops.filter { $0.key != .icmpRateLimited }.values.reduce(0, +) == 1)
    case .sent:
      handled += 1
      // What is refused is dropped, and an answer sent.
      sent.drops = drops
      let destination = Array(result.frame.prefix(6))
      let ways: [([UInt8], PortIndex)] = [
        (Bench.podMAC(bench.own, 10).octets, bench.podA), (Bench.podMAC(bench.own, 11).octets, bench.podB),
        (Bench.underlayMAC(bench.other).octets, bench.underlay), (Bench.routerMAC.octets, bench.underlay),
      ]
      guard let way = ways.first(where: { $0.0 == destination }) else {
        Issue.record("sent to nobody: \(hex(result.frame))")
        return sent
      }
      sent.frames[way.1] = [MemoryFrame(result.frame)]
    }
    return sent
  }
}

import Addresses
import EBPF
import Glibc
import Lab
import Ports
import Testing

@testable import Dataplane

/// The kernel's programs for policy beside a bench's pipeline: each frame goes to both, and what the one says of policy the
/// other must say. As far as they meet: the programs translate nothing, and their clock is the machine's.
final class PolicySubject {
  /// Whether benches that are made have one.
  @TaskLocal static var isOn = false

  private var enforcer: PolicyEnforcer?
  /// The devices that stand for the pods'.
  private var devices: [PortIndex: Int32] = [:]
  private var isOff = false
  /// Frames that were judged by both, and those that the kernel dropped.
  private(set) var judged = 0
  private(set) var dropped = 0
  /// Frames that the pipeline dropped for reasons that are none of policy's.
  private(set) var skipped = 0

  /// Brings the maps up to date with the tables.
  func follow(_ bench: Bench) throws {
    if let enforcer {
      let fits = try enforcer.apply(bench.tables.takePolicyChanges())
      return #expect(fits, "the maps are full")
    }
    devices = [bench.podA: 1001, bench.podB: 1002]
    bench.tables.followPolicies()
    enforcer = try PolicyEnforcer(
      node: "policy-\(getpid())", bench.tables.takePolicyChanges(), devices: devices,
      options: PolicyEnforcer.Options(bench.tables.settings, connectionLimit: 16384))
  }

  /// Nothing more is compared.
  func stop() { isOff = true }

  /// What the programs at the devices that a frame passes say of it; nil: it passes, or concerns none.
  func judge(_ frame: [UInt8], at port: PortIndex, _ bench: Bench) throws -> String? {
    guard let enforcer else { return nil }
    let interface = devices[port] ?? (port == bench.host ? 0 : 1000)
    if devices[port] != nil, let reason = try enforcer.run(frame, fromPod: true, interface: interface).dropped {
      return reason
    }
    guard let destination = PolicySubject.destination(frame),
      let target = bench.tables.podAddresses.find(destination).map({ PortIndex(UInt16($0)) }), target != port
    else { return nil }
    return try enforcer.run(frame, fromPod: false, interface: interface).dropped
  }

  /// To be called with what is sent, before the pipeline has it.
  func prepare(_ bench: Bench) throws {
    guard !isOff else { return }
    // What is translated the programs see otherwise.
    if bench.tables.services.frontends.count > 0 || !bench.tables.settings.natOutgoingBlocks.isEmpty { return stop() }
    try follow(bench)
  }

  /// Judges what was sent, and compares.
  func compare(
    _ frames: [MemoryFrame], at port: PortIndex, _ bench: Bench, _ sent: Sent, _ sourceLocation: SourceLocation
  ) throws {
    guard !isOff else { return }
    var expected: [String: Int] = [:]
    for (reason, count) in sent.drops { expected[reason.name] = count }
    var found: [String: Int] = [:]
    for frame in frames where frame.octets.count >= 34 {
      judged += 1
      guard let reason = try judge(frame.octets, at: port, bench) else { continue }
      dropped += 1
      found[reason, default: 0] += 1
    }
    // What the pipeline drops for another reason the kernel's stack drops for that.
    guard expected.keys.allSatisfy(PolicyReport.dropNames.contains) else {
      skipped += frames.count
      return
    }
    #expect(
      found == expected, "the kernel drops \(found), the pipeline \(expected): \(frames.map { hex($0.octets) })",
      sourceLocation: sourceLocation)
  }

  private static func destination(_ frame: [UInt8]) -> IPAddress? {
    func octets(_ range: Range<Int>) -> UInt64 { frame[range].reduce(0) { $0 << 8 | UInt64($1) } }
    switch (octets(12..<14), frame.count) {
    case (0x0800, 34...): return .v4(IPv4Address(rawValue: UInt32(octets(30..<34))))
    case (0x86dd, 54...): return .v6(IPv6Address(high: octets(38..<46), low: octets(46..<54)))
    default: return nil
    }
  }
}

/// Has every bench of a suite ask the kernel's programs for policy as well, where there may be any.
struct KernelPolicyTrait: SuiteTrait, TestTrait, TestScoping {
  var isRecursive: Bool { true }

  func provideScope(for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void)
    async throws
  {
    try await PolicySubject.$isOn.withValue(Lab.isAvailable) { try await function() }
  }
}

extension Trait where Self == KernelPolicyTrait {
  static var kernelPolicy: KernelPolicyTrait { KernelPolicyTrait() }
}

import CEBPF
public import Dataplane

/// A packet that the kernel's programs have dropped.
public struct KernelDrop: Sendable {
  /// The device that it passed, by index.
  public var interface: Int32
  /// As the data plane tells a drop; its port means nothing.
  public var sample: DropSample
}

extension EBPFDump {
  /// The packets that policy has dropped since somebody last asked, oldest first: of many the first that found room, and
  /// of these the last `limit`.
  public static func drops(node: String, limit: Int) throws(EBPFError) -> [KernelDrop] {
    var drops: [KernelDrop] = []
    // No more find room in a ring.
    let limit = min(limit, 1024)
    for place in PinFolder(node: node).policies {
      guard let ring = PinFolder.get("\(place)/policy_samples") else { continue }
      var records = [kalsae_drop_sample](repeating: kalsae_drop_sample(), count: limit)
      let count = unsafe records.withUnsafeMutableBytes {
        unsafe kalsae_bpf_ring_take(
          ring.number, $0.baseAddress, MemoryLayout<kalsae_drop_sample>.stride, UInt32(clamping: limit))
      }
      drops += records.prefix(Int(try check(count, "cannot read what was dropped"))).compactMap { KernelDrop($0) }
    }
    return Array(drops.sorted { $0.sample.timestamp < $1.sample.timestamp }.suffix(limit))
  }
}

extension KernelDrop {
  fileprivate init?(_ record: kalsae_drop_sample) {
    let number = Int(record.reason) - Int(KALSAE_POLICY_DROP_EGRESS.rawValue)
    guard PolicyReport.dropReasons.indices.contains(number) else { return nil }
    interface = Int32(bitPattern: record.interface)
    let octets = unsafe withUnsafeBytes(of: record.octets) { unsafe Array($0.prefix(Int(record.count))) }
    sample = DropSample(
      timestamp: record.time, port: PortIndex(0), reason: PolicyReport.dropReasons[number],
      length: Int(record.length), octets: octets)
  }
}

import CLinux
import Dataplane
import EBPF
import Glibc

/// Packets that programs in the kernel have dropped where no agent runs, told as an agent tells its own.
public enum KernelDrops {
  /// What a node's programs have dropped, with the packets since somebody last asked; nil: they enforce no policy.
  public static func take(node: String, limit: Int) throws -> DropsView? {
    guard let report = EBPFReport.read(node: node).policy else { return nil }
    let counts = report.counters.filter { $0.count > 0 && PolicyReport.dropNames.contains($0.name) }.map {
      DropsView.Count(port: "pods", reason: $0.name, explanation: $0.meaning, packets: $0.count)
    }
    return DropsView(counts: counts, samples: try samples(node: node, limit: limit))
  }

  private static func samples(node: String, limit: Int) throws -> [DropsView.Sample] {
    let drops: [KernelDrop]
    do throws(EBPFError) { drops = try EBPFDump.drops(node: node, limit: limit) } catch {
      throw AgentError(Agent.code(error.code), "\(error)")
    }
    // The kernel counts time since the machine's start.
    let offset = kalsae_realtime() &- kalsae_monotonic()
    return drops.map { drop in
      DropsView.Sample(
        time: drop.sample.timestamp &+ offset, port: name(drop.interface), reason: drop.sample.reason.name,
        length: drop.sample.length, packet: PacketText.line(drop.sample))
    }
  }

  private static func name(_ interface: Int32) -> String {
    var name = [CChar](repeating: 0, count: Int(IF_NAMESIZE))
    guard unsafe if_indextoname(UInt32(bitPattern: interface), &name) != nil else { return "device \(interface)" }
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

import CEBPF

/// What the kernel carries of a node's flows.
public struct OverlayReport: Sendable, Codable {
  /// The directions of flows that are in the map, and how many may be.
  public var flows = 0
  public var limit = 0
  public var counters: [EBPFReport.Counter] = []

  static let counterNames: [(name: String, meaning: String)] = [
    ("carried", "packets that were carried in the kernel"),
    ("carriedOctets", "their octets, without outer headers"),
    ("leftNotPlain", "left to user space: no whole TCP or UDP packet over IPv4, or not to be carried"),
    ("leftControl", "left to user space: TCP that opens or closes"),
    ("leftUnknown", "left to user space: no flow that is carried"),
    ("leftStale", "left to user space: something changed since the flow was decided"),
    ("leftOtherWay", "left to user space: came another way than the flow's packets"),
    ("leftExceeds", "left to user space: too big, or at the end of its time to live"),
    ("failed", "lost: the kernel could not change the packet, or its flow had just ended"),
  ]

  static func read(_ folder: PinFolder) -> OverlayReport? {
    var report: OverlayReport?
    for place in folder.overlays {
      guard let flows = PinFolder.get("\(place)/flows"), let counts = PinFolder.get("\(place)/counts") else { continue }
      var sum = report ?? OverlayReport()
      if let map: BPFMap<kalsae_flow_key, kalsae_flow> = try? BPFMap("overlay_flows", flows) {
        sum.flows += map.keyCount(kalsae_flow_key())
        sum.limit += map.limit
      }
      sum.counters = EBPFReport.Counter.sum(counterNames, of: counts, and: sum.counters)
      report = sum
    }
    return report
  }
}

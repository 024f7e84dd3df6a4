import Addresses
import Compiler
import Dataplane
import Model

/// One end of a probe.
struct ProbeEndpoint {
  var address: IPAddress
  /// The pod that has the address, on whatever node.
  var pod: Pod?
  /// `default/web (10.1.0.5)`
  var description: String { pod.map { "\($0.namespace)/\($0.name) (\(address))" } ?? address.description }
}

/// Finds what the ends of probes mean. Made once for a state.
struct ProbeEndpoints {
  private let state: State
  private var podsByAddress: [IPAddress: Pod] = [:]

  init(_ state: State) {
    self.state = state
    for pod in state.pods.values.sorted(by: { $1.key < $0.key }) where pod.hasOwnNetwork {
      for address in pod.addresses { podsByAddress[address] = pod }
    }
  }

  /// The two ends, with addresses of one family.
  func resolve(_ probe: Probe) throws(ReplayError) -> (from: ProbeEndpoint, to: ProbeEndpoint) {
    let from = try candidates(probe.from, field: "from")
    let to = try candidates(probe.to, field: "to")
    for source in from {
      if let destination = to.first(where: { $0.address.family == source.address.family }) {
        return (source, destination)
      }
    }
    throw ReplayError(
      .data,
      "from \(probe.from) and to \(probe.to) have no address of the same family: "
        + "\(from.map(\.address.description).joined(separator: ", ")) and "
        + to.map(\.address.description).joined(separator: ", "))
  }

  private func candidates(_ text: String, field: String) throws(ReplayError) -> [ProbeEndpoint] {
    if let address = IPAddress(text) { return [ProbeEndpoint(address: address, pod: podsByAddress[address])] }
    let parts = text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
    guard parts.count == 2 else {
      let same = state.pods.values.filter { $0.name == text }.map { "\($0.namespace)/\($0.name)" }.sorted()
      let advice =
        same.isEmpty
        ? "write an IP address or namespace/pod" : "write namespace/pod: \(same.prefix(8).joined(separator: " or "))"
      throw ReplayError(.data, "\(field): \(text) is neither an address nor namespace/pod; \(advice)")
    }
    guard let pod = state.pod(parts[0], parts[1]) else {
      let known = state.pods.values.map { "\($0.namespace)/\($0.name)" }.sorted()
      throw ReplayError(
        .missing, "\(field): no Pod \(text): \(hint(for: text, among: known, none: "the state holds no pods"))")
    }
    if pod.hostNetwork {
      // Such a pod has its node's addresses (NP-8).
      let node = pod.nodeName.flatMap { state.node($0) }
      let addresses = IPFamily.allCases.compactMap { node?.address($0) }
      guard !addresses.isEmpty else {
        throw ReplayError(.data, "\(field): Pod \(text) is on the host network of a node without addresses")
      }
      return addresses.map { ProbeEndpoint(address: $0, pod: nil) }
    }
    guard !pod.addresses.isEmpty else {
      throw ReplayError(.data, "\(field): Pod \(text) has no address yet (status.podIPs)")
    }
    return pod.addresses.map { ProbeEndpoint(address: $0, pod: pod) }
  }

  func protocolNumber(_ text: String, family: IPFamily) throws(ReplayError) -> IPProtocol {
    switch text.uppercased() {
    case "TCP": return .tcp
    case "UDP": return .udp
    case "SCTP": return .sctp
    case "ICMP", "ICMPV6": return family == .ipv4 ? .icmp : .icmpv6
    default: throw ReplayError(.data, "protocol: \(text) is none of TCP, UDP, SCTP, ICMP")
    }
  }

  /// The destination port; a name is looked up on the destination pod (NP-5).
  func port(_ probe: Probe, _ transport: IPProtocol, on pod: Pod?) throws(ReplayError) -> UInt16 {
    guard transport != .icmp, transport != .icmpv6 else { return 0 }
    guard let text = probe.port else {
      throw ReplayError(.data, "port: is missing; \(transport.displayName) needs a number or the name of a port")
    }
    if let number = Int(text) {
      guard (1...65535).contains(number) else { throw ReplayError(.data, "port: \(text) is not from 1 to 65535") }
      return UInt16(number)
    }
    guard let pod else {
      throw ReplayError(
        .data, "port: \(text) is a name, but \(probe.to) is no pod that could have named it; give a number")
    }
    let kind = TransportProtocol.allCases.first { $0.number == transport.rawValue } ?? .tcp
    if let number = pod.port(named: text, protocol: kind) { return number }
    let known = pod.ports.compactMap { port in port.protocol == kind ? port.name : nil }
    throw ReplayError(
      .missing,
      "port: Pod \(pod.namespace)/\(pod.name) has no \(kind.rawValue) port named \(text): "
        + hint(for: text, among: known, none: "it names no ports"))
  }
}

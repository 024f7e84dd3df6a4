import Addresses
import CLinux
import Compiler
import Dataplane
import EBPF
import Model
import Ports

/// Has the kernel carry flows that the data path has decided, where the settings want it and the kernel can.
extension Agent {
  static let offloadSubject = "ebpf overlay"

  /// Brings the devices that the kernel looks after up to date with those that are open.
  func settleOffload() {
    let settings = compiler.settings
    // What was loaded without an agent: this one decides policy itself.
    if PolicyEnforcer.unload(node: configuration.node) { log.info("ebpf policy: taken out of the kernel") }
    guard settings.ebpf != .off, settings.ebpfHooks.contains(.overlay), steered == nil else {
      closeOffload()
      guard settings.ebpf == .required, settings.ebpfHooks.contains(.overlay) else {
        return clearTrouble(Agent.offloadSubject)
      }
      // What comes by AF_XDP has passed before its programs could see it.
      return trouble(
        Agent.offloadSubject,
        "user space carries all packets, because ports is af_xdp; set it to af_packet, or name other hooks in ebpfHooks",
        level: .error)
    }
    do throws(EBPFError) {
      if settings.ebpf == .auto, let refusal = offloadRefusal {
        if !hasToldRefusal { log.notice("ebpf overlay: \(refusal): user space carries all packets") }
        hasToldRefusal = true
        return
      }
      // Somebody has unloaded it: what is left leads nowhere.
      if let offload, !offload.isThere { closeOffload() }
      let offload: FlowOffloader
      if let running = self.offload { offload = running } else { offload = try startOffload() }
      var sockets: [Int32: [Int32]] = [:]
      let ports = overlayPorts(&sockets)
      let isNew = underlay.map { offload.installed[$0.port.interfaceIndex] == nil } ?? false
      // The filter first: a socket without one takes what is not ours.
      if isNew { try claim(offload) }
      var failure: EBPFError?
      dataPath.change { _ in
        offload.underlayPort = underlay?.index
        offload.wrapsSuperFrames = settings.tunnelOffload
        do throws(EBPFError) { try offload.set(ports) { sockets[$0.interface]! } } catch { failure = error }
      }
      if let failure { throw failure }
      clearTrouble(Agent.offloadSubject)
    } catch {
      closeOffload()
      trouble(
        Agent.offloadSubject, "\(error): user space carries all packets",
        level: settings.ebpf == .required ? .error : .warning)
    }
  }

  /// Packets that the kernel has carried; nil: it carries none.
  var carriedPackets: UInt64? {
    if offload == nil { return nil }
    return dataPath.change { _ in workers.lane.withPipeline { $0.offloadTotals.packets } }
  }

  private func startOffload() throws(EBPFError) -> FlowOffloader {
    let offload = try FlowOffloader(
      node: configuration.node, limit: min(max(1024, compiler.settings.flowTableSize * 2), 1 << 17))
    self.offload = offload
    dataPath.setOffload(offload)
    log.info("ebpf overlay: the kernel carries established flows, \(offload.limit) directions at most")
    return offload
  }

  /// The devices that packets are carried between, and their sockets.
  private func overlayPorts(_ sockets: inout [Int32: [Int32]]) -> [OverlayPort] {
    var ports: [OverlayPort] = []
    for pod in pods.values {
      guard pod.isVeth, let port = pod.port as? AFPacketPort, let link = links[pod.interface] else { continue }
      guard let description = dataPath.change({ $0.port(pod.index) }) else { continue }
      ports.append(
        OverlayPort(
          interface: pod.interface, mac: description.mac, peer: description.peerMAC, pod: pod.index,
          isPair: link.kind == "veth" && link.peerNamespaceID != nil))
      sockets[pod.interface] = [port].compactMap(\.descriptor)
    }
    if let underlay {
      var port = OverlayPort(
        interface: underlay.port.interfaceIndex, mac: underlay.port.mac, pod: nil, isPair: false)
      let settings = dataPath.change { $0.settings }
      port.vxlanPort = settings.vxlanPort
      port.genevePort = settings.genevePort
      port.vtep = settings.vtepMAC
      ports.append(port)
      sockets[port.interface] = ([underlay.port] + underlay.others).compactMap(\.descriptor)
    }
    return ports
  }

  /// Says what the underlay's socket takes of the packets that nobody carries.
  private func claim(_ offload: FlowOffloader) throws(EBPFError) {
    guard let underlay else { return }
    let filter: [sock_filter]
    do { filter = try socketFilter(underlay.classifier) } catch { throw EBPFError("\(error)") }
    try claim(offload, filter)
  }

  private func claim(_ offload: FlowOffloader, _ filter: [sock_filter]) throws(EBPFError) {
    let result: Result<Void, EBPFError> = unsafe filter.withUnsafeBytes { octets in
      do throws(EBPFError) {
        return .success(try unsafe offload.setClaims(octets, count: filter.count))
      } catch {
        return .failure(error)
      }
    }
    try result.get()
  }

  /// Puts another filter in the place of the underlay's present one.
  func setUnderlayFilter(_ open: UnderlayPort, _ filter: [sock_filter]) throws {
    if let offload, offload.installed[open.port.interfaceIndex] != nil {
      try claim(offload, filter)
    } else {
      for port in [open.port] + open.others { try port.setFilter(filter) }
    }
  }

  /// Leaves a device to user space: before its port is closed.
  func leaveOffload(_ interface: Int32) {
    guard let offload else { return }
    dataPath.change { _ in offload.forget(interface) }
  }

  /// Has user space carry everything again, and takes what was loaded out of the kernel, also what an agent that was killed
  /// has left.
  func closeOffload() {
    if let offload {
      // From here on no flow is known there; the sockets' filters let everything pass.
      dataPath.setOffload(nil)
      self.offload = nil
      for interface in offload.installed.keys { offload.forget(interface) }
      if let underlay, let filter = try? socketFilter(underlay.classifier) {
        for port in [underlay.port] + underlay.others { try? port.setFilter(filter) }
      }
      for pod in pods.values { (pod.port as? AFPacketPort)?.removeFilter() }
    }
    if FlowOffloader.unload(node: configuration.node) { log.info("ebpf overlay: taken out of the kernel") }
  }

  /// Has user space get all packets, while what is loaded stays for the agent that takes over.
  func pauseOffload() {
    guard offload != nil else { return }
    dataPath.change { _ in workers.lane.withPipeline { $0.syncOffload() } }
    dataPath.setOffload(nil)
  }
}

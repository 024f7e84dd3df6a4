import Addresses
import CNI
import Compiler
import IPAM
import Node

extension CNIService {
  /// DEL: takes everything back; what is gone already is no error (CNI-4).
  func delete(_ request: CNIRequest) throws(CNIError) {
    let attachment = request.attachment
    let isFree = request.configuration.previous != nil && request.configuration.addressManager == nil
    // The address is released even where nothing else is known of the container.
    let manager = isFree && store[attachment]?.isForeign != false ? nil : try self.manager(request)
    if let record = store[attachment] {
      try takeBack(record, manager)
      log.info("CNI DEL \(attachment)")
      return
    }
    if let link = try? netlink.link(named: AttachmentRecord.hostInterface(attachment)) {
      try? netlink.deleteLink(link.index)
    }
    guard let manager else { return }
    do throws(IPAMError) { try manager.release(attachment) } catch { throw CNIError(error) }
  }

  /// Takes back what a record says, in the opposite order of making it; the record goes last, so that whoever is killed
  /// goes on later.
  func takeBack(_ record: AttachmentRecord, _ manager: (any AddressManager)?) throws(CNIError) {
    var record = record
    if record.phase == .ready {
      record.phase = .deleting
      try keep(record)
    }
    let key = record.key
    let interface = record.hostInterface
    let goes = record.type == .veth && !record.isForeign
    let withdraw: @Sendable (Agent) -> Void = { agent in
      // Another container may have taken the pod's place meanwhile.
      guard agent.compiler.container(key)?.attachment.interface == interface else { return }
      if goes, agent.pods[key]?.attachment.interface == interface { agent.departing.insert(interface) }
      agent.compiler.setContainer(nil, for: key)
    }
    // Both take their time, and need not wait for each other.
    let withdrawn = control.start(withdraw, then: { _ in })
    if !record.isForeign { removeInterface(record) }
    try CNIService.wait(for: withdrawn)
    if let manager {
      do throws(IPAMError) { try manager.release(record.attachment) } catch { throw CNIError(error) }
    }
    store.remove(record.attachment)
  }

  private func removeInterface(_ record: AttachmentRecord) {
    let namespace = NetworkNamespace(record.namespacePath)
    let isThere = (try? namespace.identity())?.inode == record.namespaceInode
    if isThere { PodInterface.removeRules(for: record.addresses, in: namespace) }
    switch record.type {
    case .veth:
      // The kernel takes some 15 ms: nobody else is to wait for the socket meanwhile.
      let netlink = (try? Netlink()) ?? self.netlink
      // With its namespace gone the pair is gone too.
      guard let link = try? netlink.link(named: record.hostInterface) else { return }
      try? netlink.deleteLink(link.index)
    case .tap:
      guard isThere, let device = try? PodInterface(record.attachment.interface, in: namespace) else { return }
      try? device.remove()
    }
  }

  /// The manager of a recorded attachment's addresses.
  func manager(_ record: AttachmentRecord) throws(CNIError) -> (any AddressManager)? {
    var configuration = record.configuration
    configuration["prevResult"] = nil
    let parsed = try NetworkConfiguration(configuration, for: .delete)
    if record.isForeign, parsed.addressManager == nil { return nil }
    return try manager(
      CNIRequest(
        .delete, containerID: record.attachment.containerID, namespacePath: record.namespacePath,
        interface: record.attachment.interface, configuration: parsed))
  }
}

import Addresses
import CNI
import IPAM
import Node

extension CNIService {
  /// CHECK: the interface is as ADD left it (CNI-5).
  func check(_ request: CNIRequest) throws(CNIError) {
    let attachment = request.attachment
    guard let record = store[attachment], record.phase == .ready else {
      throw CNIError(
        .unknownContainer, "no interface \(attachment.interface) of container \(attachment.containerID) is known",
        remedy: "it was never added, or removed; there is nothing to clean up")
    }
    guard let previous = request.configuration.previous else {
      throw CNIError(
        .invalidConfiguration, "CHECK came without prevResult", remedy: "it is the runtime's to hand what ADD answered")
    }
    let (namespace, identity) = try namespace(request.namespacePath ?? "")
    guard identity.inode == record.namespaceInode else {
      throw failure("the container's namespace is another one than at ADD")
    }
    try checkInside(request, previous, namespace, record)
    if record.type == .veth, (try? netlink.link(named: record.hostInterface)) == nil {
      throw failure("the host's end \(record.hostInterface) is gone")
    }
    let key = record.key
    let isAttached = try onControl(settles: false) { agent in agent.pods[key] != nil }
    guard isAttached else { throw failure("the data plane has no port for it") }
    guard let manager = try manager(record) else { return }
    do throws(IPAMError) { try manager.check(attachment, has: record.addresses) } catch { throw CNIError(error) }
  }

  private func failure(_ problem: String) -> CNIError {
    CNIError(
      .checkFailed, problem, remedy: "remove the container's sandbox and let the runtime make it anew")
  }

  private func checkInside(
    _ request: CNIRequest, _ previous: CNIResult, _ namespace: NetworkNamespace, _ record: AttachmentRecord
  ) throws(CNIError) {
    let name = request.interface
    do {
      guard let inside = try? PodInterface(name, in: namespace) else { throw failure("\(name) is gone") }
      let link = try inside.link()
      guard link.isUp else { throw failure("\(name) is down") }
      if let told = previous.interfaces.first(where: { $0.name == name && $0.sandbox != nil }) {
        if let mac = told.mac, link.mac.map({ $0 != MACAddress(mac) }) ?? true {
          throw failure("\(name) has the address \(link.mac?.description ?? "none"), not \(mac)")
        }
      } else {
        throw failure("prevResult does not name \(name)")
      }
      let present = Set(try inside.addresses().map(\.address))
      let own = previous.addresses.filter { address in
        guard let position = address.interface, previous.interfaces.indices.contains(position) else { return true }
        return previous.interfaces[position].name == name
      }
      for address in own where !present.contains(address.address) {
        throw failure("\(name) does not have the address \(address.address)")
      }
      let routes = Set(try inside.routes().map(\.destination))
      for route in previous.routes where !routes.contains(route.destination) {
        throw failure("the route to \(route.destination) by \(name) is gone")
      }
    } catch let error as CNIError {
      throw error
    } catch {
      throw failure("\(error)")
    }
  }

  /// STATUS: whether ADD could succeed now (CNI-6).
  func status(_ request: CNIRequest) throws(CNIError) {
    let troubles = try onControl(settles: false) { agent in (agent.underlay == nil, agent.host == nil, agent.troubles) }
    if troubles.1 {
      throw CNIError(
        .notAvailable, "the node's own device is missing: \(troubles.2.values.sorted().first ?? "it is being made")",
        remedy: "see `kalsae get status`")
    }
    do throws(IPAMError) { try managers.manager(for: request).ready() } catch {
      throw CNIError(.notAvailable, error.message, remedy: CNIError(error).remedy)
    }
    if troubles.0 {
      throw CNIError(
        .limitedConnectivity, "pods of this node reach no other node: \(troubles.2["underlay"] ?? "no underlay")",
        remedy: "see `kalsae get status`")
    }
  }

  /// GC: takes back what the runtime does not name (CNI-6).
  func collect(_ request: CNIRequest) throws(CNIError) {
    guard let named = request.configuration.validAttachments else {
      throw CNIError(
        .invalidConfiguration, "GC came without cni.dev/valid-attachments",
        remedy: "nothing was collected; it is the runtime's to name what is in use")
    }
    let network = request.configuration.name
    let valid = Set(
      named.map { IPAM.Attachment(network: network, containerID: $0.containerID, interface: $0.interface) })
    var failures: [CNIError] = []
    for record in store.all where record.attachment.network == network && !valid.contains(record.attachment) {
      log.notice("CNI GC: \(record.attachment) is not in use any more")
      do throws(CNIError) { try takeBack(record, try manager(record)) } catch { failures.append(error) }
    }
    let addresses = try manager(request)
    try alone { () throws(CNIError) in
      // What another ADD is making is in use although the runtime did not know of it yet.
      let own = store.all.map(\.attachment).filter { $0.network == network }
      do throws(IPAMError) {
        for gone in try addresses.collect(keeping: valid.union(own), network: network) {
          log.notice("CNI GC: the addresses of \(gone) are free again")
        }
      } catch { failures.append(CNIError(error)) }
    }
    if let first = failures.first { throw first }
  }
}

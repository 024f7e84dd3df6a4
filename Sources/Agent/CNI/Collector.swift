import CLinux
import CNI
import Glibc
import IPAM
import Node
import Synchronization

/// Takes back what nobody will ask to take back: containers whose namespaces are gone, interfaces and addresses that no
/// record names. What looks left behind is taken only when it was seen twice, and for as long as `grace`: a runtime may
/// be about to ask for it.
final class Collector: Sendable {
  /// Nanoseconds between two looks.
  static let interval: UInt64 = 10_000_000_000
  /// Nanoseconds between two looks at the blocks of all nodes.
  static let blockInterval: UInt64 = 2_000_000_000
  /// Nanoseconds for which something must look left behind.
  static let grace: UInt64 = 60_000_000_000

  private enum Suspect: Hashable, Sendable {
    case attachment(IPAM.Attachment)
    case link(Int32)
  }

  private struct Sighting {
    var first: UInt64
    var count: Int
  }

  private let service: CNIService
  private let sightings = Mutex<[Suspect: Sighting]>([:])

  init(service: CNIService) { self.service = service }

  /// What the process before this one left unfinished is finished, before anybody is answered.
  func begin() {
    for record in service.store.all {
      let isStale = record.boot != AttachmentStore.boot
      guard isStale || record.phase != .ready else { continue }
      service.log.notice(
        "CNI: \(record.attachment) is from \(isStale ? "before the machine's start" : "an unfinished request"): taken back"
      )
      takeBack(record)
    }
    carryOutDeletes()
    collectAddresses()
    service.refreshBlocks()
  }

  func look() {
    carryOutDeletes()
    let now = kalsae_monotonic()
    var suspects: Set<Suspect> = []
    for record in service.store.all where record.phase == .ready && isLeft(record) {
      suspects.insert(.attachment(record.attachment))
    }
    for record in service.store.all where record.phase == .deleting {
      suspects.insert(.attachment(record.attachment))
    }
    let named = Set(service.store.all.map(\.hostInterface))
    let links = (try? service.netlink.links()) ?? []
    for link in links where link.alias?.hasPrefix(AttachmentRecord.aliasPrefix) == true && !named.contains(link.name) {
      suspects.insert(.link(link.index))
    }
    let due = sightings.withLock { sightings in
      sightings = sightings.filter { suspects.contains($0.key) }
      for suspect in suspects {
        sightings[suspect, default: Sighting(first: now, count: 0)].count += 1
      }
      return sightings.filter { $0.value.count >= 2 && now &- $0.value.first >= Collector.grace }.map(\.key)
    }
    for suspect in due {
      switch suspect {
      case .attachment(let attachment):
        guard let record = service.store[attachment] else { continue }
        service.log.notice("CNI: the namespace of \(attachment) is gone and no DEL came: taken back")
        takeBack(record)
      case .link(let index):
        service.log.notice("CNI: \(links.first { $0.index == index }?.name ?? "?") belongs to no container: removed")
        try? service.netlink.deleteLink(index)
      }
    }
    if !due.isEmpty { collectAddresses() }
  }

  /// Whether the container's namespace is gone, or is another one by now.
  private func isLeft(_ record: AttachmentRecord) -> Bool {
    let identity = try? NetworkNamespace(record.namespacePath).identity()
    if identity?.inode == record.namespaceInode { return false }
    // A path may go while the namespace lasts; a veth pair goes with it.
    return record.type != .veth || (try? service.netlink.link(named: record.hostInterface)) == nil
  }

  private func takeBack(_ record: AttachmentRecord) {
    do throws(CNIError) {
      _ = try service.perform(
        CNIRequest(
          .delete, containerID: record.attachment.containerID, namespacePath: record.namespacePath,
          interface: record.attachment.interface,
          configuration: try NetworkConfiguration(record.configuration, for: .delete)))
    } catch {
      service.log.error("CNI: \(record.attachment) could not be taken back: \(error)")
    }
  }

  /// DELs that came while no agent ran.
  private func carryOutDeletes() {
    service.spool.sweep()
    for entry in service.spool.entries() {
      guard let request = entry.request else {
        service.log.error("\(entry.path): no recorded DEL; removed")
        service.spool.remove(entry)
        continue
      }
      do throws(CNIError) {
        _ = try service.perform(request)
        service.spool.remove(entry)
      } catch {
        service.log.error("CNI: the recorded DEL of \(request.attachment) failed, and is tried again: \(error)")
      }
    }
  }

  /// Addresses whose owner has no record. Nobody makes any meanwhile.
  private func collectAddresses() {
    try? service.alone { () throws(CNIError) in
      let records = service.store.all
      for network in Set(records.map(\.attachment.network)) {
        guard let record = records.first(where: { $0.attachment.network == network }),
          let manager = try service.manager(record)
        else { continue }
        let valid = Set(records.map(\.attachment).filter { $0.network == network })
        do throws(IPAMError) {
          for gone in try manager.collect(keeping: valid, network: network) {
            service.log.notice("CNI: the addresses of \(gone) belonged to no container: free again")
          }
        } catch { service.log.error("CNI: network \(network): \(error)") }
      }
    }
  }
}

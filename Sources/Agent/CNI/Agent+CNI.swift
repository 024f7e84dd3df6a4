import Addresses
import CNI
import Compiler
import Model

extension Agent {
  /// Lays what was attached before the agent started over the objects, before anything is compiled: the interfaces are
  /// there and are adopted as they are.
  func adoptContainers(_ service: CNIService) {
    var count = 0
    for record in service.store.all where record.phase == .ready && record.boot == AttachmentStore.boot {
      compiler.setContainer(record.container, for: record.key)
      count += 1
    }
    if count > 0 { log.info("CNI: \(count) interfaces of containers are adopted") }
  }

  /// Has the tables know whose blocks are whose: packets to another node's block go there, and the rest of an own one
  /// nowhere (NODE-7).
  func setBlocks(_ blocks: [String: [IPPrefix]]) {
    for node in Set(blocks.keys).union(nodesWithBlocks) { compiler.setBlocks(blocks[node] ?? [], ofNode: node) }
    nodesWithBlocks = Set(blocks.keys)
  }
}

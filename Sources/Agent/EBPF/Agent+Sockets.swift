import Compiler
import Dataplane
import EBPF
import Model

/// Keeps the services in the kernel equal to the tables.
extension Agent {
  private static let subject = "ebpf"

  /// Loads, brings up to date or takes away the services in the kernel, as the settings say.
  func settleSockets() {
    let settings = compiler.settings
    guard settings.ebpf != .off, SocketServices.isWanted(settings.ebpfHooks) else {
      closeSockets()
      return clearTrouble(Agent.subject)
    }
    do throws(EBPFError) {
      let namespaces = try SocketServices.namespaces(compiler) { pod, text in
        trouble("pod \(pod.namespace)/\(pod.name): ebpf", text, level: .warning)
      }
      if let sockets, sockets.hooks == settings.ebpfHooks, sockets.balancer.isThere {
        try sockets.balancer.set(namespaces)
        let changes = dataPath.change { $0.takeServiceChanges() }
        if try sockets.balancer.apply(changes) { return clearTrouble(Agent.subject) }
        log.info("ebpf: the maps are full: larger ones take over")
      }
      let all = dataPath.change { tables in
        tables.followServices()
        return tables.takeServiceChanges()
      }
      let balancer = try SocketBalancer(
        node: configuration.node, all, namespaces: namespaces,
        options: SocketServices.options(settings, settings.ebpfHooks, controlGroup: configuration.controlGroup))
      sockets = SocketServices(balancer: balancer, hooks: settings.ebpfHooks)
      for (hook, plan) in balancer.plan.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
        if case .off(let reason) = plan { log.warning("ebpf: \(hook.rawValue): \(reason): left to user space") }
      }
      log.info("ebpf: \(balancer.frontendCount) frontends at the sockets of \(namespaces.count) network namespaces")
      clearTrouble(Agent.subject)
    } catch {
      // What is in the kernel may be old: better none.
      let had = sockets != nil
      closeSockets()
      trouble(
        Agent.subject, "\(error)\(had ? "; taken away" : ""): user space does it",
        level: settings.ebpf == .required ? .error : .warning)
    }
  }

  /// Fails where the settings require the kernel's help and it is not to be had.
  func requireSockets() throws {
    let settings = compiler.settings
    guard settings.ebpf == .required else { return }
    let missing =
      sockets == nil && SocketServices.isWanted(settings.ebpfHooks)
      ? Agent.subject : offload == nil && settings.ebpfHooks.contains(.overlay) ? Agent.offloadSubject : nil
    guard let missing else { return }
    throw AgentError(
      .failed, "ebpf is required, but: \(troubles[missing] ?? "nothing is loaded"); set ebpf to auto or off")
  }

  /// Takes the services out of the kernel: connections that were made stay, new ones are made in user space.
  /// What an agent that was killed has left is old, and goes as well.
  func closeSockets() {
    lease = nil
    if sockets != nil {
      sockets = nil
      dataPath.change { $0.unfollowServices() }
    }
    if SocketBalancer.unload(node: configuration.node) { log.info("ebpf: taken out of the kernel") }
  }
}

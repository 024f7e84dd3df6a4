import Dataplane
import EBPF
import Model

/// Network policy in the kernel without an agent, for a node whose packets the kernel routes.
enum PolicyLoader {
  /// Loads what the tables hold for pods' devices, or takes out what was loaded where it is switched off. Returns what was
  /// loaded, in words.
  static func load(
    node: String, _ settings: NodeSettings, _ hooks: Set<EBPFHook>, _ ports: [BalancedPort], _ tables: inout Tables
  ) throws(EBPFError) -> String {
    var devices: [PortIndex: Int32] = [:]
    for port in ports { if let pod = port.pod { devices[pod] = port.interface } }
    guard hooks.contains(.policy), !devices.isEmpty else {
      PolicyEnforcer.unload(node: node)
      return ""
    }
    tables.followPolicies()
    var options = PolicyEnforcer.Options(
      tables.settings, connectionLimit: min(max(1024, settings.flowTableSize), 1 << 17))
    options.isDirect = settings.loadBalancerMode == .dsr
    let enforcer = try PolicyEnforcer(node: node, tables.takePolicyChanges(), devices: devices, options: options)
    try enforcer.attach(Set(devices.values))
    return "; policy at \(devices.count) devices by \(enforcer.ruleCount) rules"
  }
}

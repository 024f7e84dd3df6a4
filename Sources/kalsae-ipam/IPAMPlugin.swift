import CNI
import Datastore
import Glibc
import IPAM
import Model

/// Address management as an IPAM plugin for other CNI plugins (specification 1.1.0, section 4): `"ipam": {"type":
/// "kalsae-ipam"}`. It needs no agent: it opens the store and reads the pools by itself.
///
/// `ipam.state` names the directory of manifests that has the IPPools, `ipam.node` the node (default: the host's name).
enum IPAMPlugin {
  static let defaultState = "/etc/kalsae"

  static func run() -> Int32 {
    let program = PluginProgram(
      about:
        "kalsae-ipam, an IPAM plugin of the Container Network Interface (https://www.cni.dev): gives containers addresses.\n"
        + "Versions of the specification: \(CNIVersion.supportedText).\n"
        + "CNI plugins start it, where their network configuration has \"ipam\": {\"type\": \"kalsae-ipam\"}.\n",
      caller: "CNI plugins do")
    return program.run { request throws(CNIError) in
      try perform(request)?.json(version: request.configuration.version)
    }
  }

  private static func perform(_ request: CNIRequest) throws(CNIError) -> CNIResult? {
    do throws(IPAMError) {
      let managers = AddressManagers(node: node(request))
      // Only what gives addresses needs to know the pools.
      if request.command == .add || request.command == .status { managers.setCatalog(try catalog(request)) }
      let manager = try managers.manager(for: request)
      switch request.command {
      case .add: return CNIResult(try manager.assign(try managers.assignRequest(for: request)))
      case .delete: try manager.release(request.attachment)
      case .check:
        try manager.check(request.attachment, has: request.configuration.previous?.addresses.map(\.address) ?? [])
      case .collect: _ = try manager.collect(keeping: request.validAttachments, network: request.configuration.name)
      case .status:
        do throws(IPAMError) { try manager.ready() } catch {
          throw IPAMError(.plugin(code: CNIError.Code.notAvailable.rawValue), error.message)
        }
      case .version: break
      }
      return nil
    } catch { throw CNIError(error) }
  }

  private static func catalog(_ request: CNIRequest) throws(IPAMError) -> PoolCatalog {
    let settings = try AddressSettings(request.configuration.json["ipam"] ?? .object([]))
    guard settings.mode == .block else { return PoolCatalog(pools: []) }
    let directory = request.configuration.json["ipam"]?["state"]?.text ?? defaultState
    do {
      let (state, problems, _) = try loadState(directory: directory)
      // A pool that cannot be read must not look like a pool that is not there.
      if let problem = problems.first(where: { $0.object?.hasPrefix("IPPool") ?? true }) {
        throw IPAMError(.configuration, "\(problem)")
      }
      return PoolCatalog(state)
    } catch let error as IPAMError {
      throw error
    } catch {
      throw IPAMError(.configuration, "\(error); name the directory of manifests that has the IPPools as ipam.state")
    }
  }

  private static func node(_ request: CNIRequest) -> String {
    if let node = request.configuration.json["ipam"]?["node"]?.text, !node.isEmpty { return node }
    var name = [CChar](repeating: 0, count: 256)
    guard unsafe gethostname(&name, name.count - 1) == 0 else { return "localhost" }
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

import Addresses
public import CNI

extension CNIRequest {
  public var attachment: IPAM.Attachment {
    IPAM.Attachment(network: configuration.name, containerID: containerID, interface: interface)
  }

  /// The pod that the runtime names (CNI-10).
  public var pod: PodName? {
    guard let namespace = arguments["K8S_POD_NAMESPACE"], let name = arguments["K8S_POD_NAME"], !namespace.isEmpty,
      !name.isEmpty
    else { return nil }
    return PodName(namespace: namespace, name: name)
  }

  /// The addresses that are asked for: by the capability `ips`, by `args.cni.ips`, or by `IP` in CNI_ARGS (CNI-10).
  public var requestedAddresses: [IPAddress] {
    if !configuration.runtime.addresses.isEmpty { return configuration.runtime.addresses }
    let listed = configuration.json["args"]?["cni"]?["ips"]?.elements?.compactMap(\.text) ?? []
    let named = (arguments["IP"] ?? "").split(separator: ",").map(String.init)
    return (listed + named).compactMap { IPAddress(String($0.prefix { $0 != "/" })) }
  }

  /// The valid attachments of GC, under this network's name.
  public var validAttachments: Set<IPAM.Attachment> {
    Set(
      (configuration.validAttachments ?? []).map {
        IPAM.Attachment(network: configuration.name, containerID: $0.containerID, interface: $0.interface)
      })
  }
}

extension CNIError {
  public init(_ error: IPAMError) {
    let remedy =
      switch error.kind {
      case .configuration: "mend the \"ipam\" section of the network configuration"
      case .exhausted: "add an IPPool or make one larger; `kalsae ipam show` tells how full they are"
      case .refused: "ask for another address, or for none; `kalsae ipam show --ip` tells who has it"
      case .mismatch: "`kalsae ipam check` tells what differs; the runtime should remove the container and make it anew"
      case .busy: "the runtime asks again"
      case .storage: "look at the folder of the address store, and whether its disk is full"
      case .plugin: "see what the IPAM plugin says, and its own documentation"
      }
    self.init(Code(rawValue: error.code), error.message, remedy: remedy)
  }
}

extension IPAMError {
  init(_ error: CNIError) {
    self.init(
      .plugin(code: error.code.rawValue), error.remedy.isEmpty ? error.message : "\(error.message); \(error.remedy)")
  }
}

extension CNIResult {
  /// The result of an IPAM plugin (section 4): addresses that belong to no interface yet.
  public init(_ assignment: Assignment) {
    self.init()
    addresses = assignment.addresses.map {
      Address($0.address, prefixLength: $0.prefixLength, gateway: $0.gateway)
    }
    routes = assignment.routes.map { Route($0.destination, gateway: $0.gateway) }
    dns = assignment.dns.map { dns in
      func list(_ texts: [String]?) -> JSON? { texts.map { .array($0.map(JSON.string)) } }
      return JSON([
        "nameservers": list(dns.nameservers), "domain": dns.domain.map { .string($0) }, "search": list(dns.search),
        "options": list(dns.options),
      ])
    }
  }
}

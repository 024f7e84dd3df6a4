/// The network configuration that a runtime hands a plugin (section 1 and section 3, "Deriving execution configuration
/// from plugin configuration"), read and checked. What it does not know it keeps in `json`.
public struct NetworkConfiguration: Sendable, Equatable {
  /// How the pod's interface is made.
  public enum InterfaceType: String, Sendable, CaseIterable {
    case veth
    case tap
  }

  /// All of it, as it came.
  public var json: JSON
  public var version: CNIVersion
  public var name: String
  /// What the plugins before this one in the chain made.
  public var previous: CNIResult?
  /// `interface`: veth where it does not say.
  public var interface: InterfaceType
  /// `mtu`: nil for that of the underlay less the tunnel's (NODE-6).
  public var mtu: Int?
  /// `agentSocket`: where the agent answers; nil for the only one of this machine.
  public var agentSocket: String?
  /// `dataDirectory`: what outlives agents and plugins.
  public var dataDirectory: String?
  /// `ipMasq`
  public var masquerades: Bool
  /// `ipam.type`; nil where there is no section.
  public var addressManager: String?
  public var dns: JSON?
  public var runtime: RuntimeConfiguration
  /// `cni.dev/valid-attachments` of GC.
  public var validAttachments: Set<Attachment>?

  /// A container's interface, as GC names it.
  public struct Attachment: Sendable, Hashable {
    public var containerID: String
    public var interface: String

    public init(containerID: String, interface: String) {
      self.containerID = containerID
      self.interface = interface
    }
  }

  /// The longest that is read, in octets.
  public static let limit = 1 << 20

  public init(parsing input: [UInt8], for command: CNIRequest.Command = .add) throws(CNIError) {
    guard input.count <= NetworkConfiguration.limit else {
      throw CNIError(
        .undecodable, "the network configuration is longer than \(NetworkConfiguration.limit >> 20) MiB",
        remedy: "look at the network configuration file and at what the runtime adds to it")
    }
    let json: JSON
    do throws(JSONError) { json = try JSON(parsing: input) } catch {
      throw CNIError(
        .undecodable, "the network configuration is no JSON: \(error)",
        remedy: "mend the file in the runtime's CNI configuration directory")
    }
    try self.init(json, for: command)
  }

  public init(_ json: JSON, for command: CNIRequest.Command = .add) throws(CNIError) {
    guard case .object = json else {
      throw CNIError(
        .undecodable, "the network configuration is \(json.kind), not an object",
        remedy: "mend the file in the runtime's CNI configuration directory")
    }
    self.json = json
    version = try NetworkConfiguration.version(json, command)
    let reader = Reader(json: json, path: "")
    if command == .version {
      name = json["name"]?.text ?? ""
    } else {
      name = try reader.string("name") ?? ""
      guard CNIRequest.isName(name) else {
        throw reader.invalid(
          "name", name.isEmpty ? "is missing" : "is '\(name)'",
          "give the network a name that begins with a letter or digit and goes on with letters, digits, '_', '.', '-'")
      }
    }
    interface = .veth
    if let text = try reader.string("interface") {
      guard let type = InterfaceType(rawValue: text) else {
        let other = ["ipvlan", "macvlan", "macvtap", "sriov", "bridge", "host-device"].contains(text)
        throw CNIError(
          other ? .unsupportedField : .invalidConfiguration, "interface is '\(text)'",
          remedy: "Kalsae makes interfaces of the kinds veth and tap; set \"interface\" to one of them")
      }
      interface = type
    }
    mtu = try reader.integer("mtu", 68...65_535)
    agentSocket = try reader.absolutePath("agentSocket")
    dataDirectory = try reader.absolutePath("dataDirectory")
    masquerades = try reader.bool("ipMasq") ?? false
    let ipam = try reader.object("ipam")
    addressManager = try ipam?.string("type")
    if ipam != nil, addressManager == nil || addressManager!.isEmpty || addressManager!.contains("/") {
      throw reader.invalid("ipam.type", "is missing or no plugin's name", "name an IPAM plugin, `kalsae` for its own")
    }
    dns = try reader.object("dns")?.json
    runtime = try RuntimeConfiguration(try reader.object("runtimeConfig"))
    previous = nil
    if let result = json["prevResult"], result != .null {
      previous = try CNIResult(result, version: version, of: "prevResult")
    }
    validAttachments = nil
    if let list = json["cni.dev/valid-attachments"] ?? json["cni.dev/attachments"], list != .null {
      validAttachments = try NetworkConfiguration.attachments(list, reader)
    }
  }

  private static func version(_ json: JSON, _ command: CNIRequest.Command) throws(CNIError) -> CNIVersion {
    let value = json["cniVersion"]
    guard let text = value?.text else {
      if let value, value != .null {
        throw CNIError(.undecodable, "cniVersion is \(value.kind), not a string", remedy: "write it as \"1.1.0\"")
      }
      if command == .version { return .newest }
      throw CNIError(
        .incompatibleVersion, "the network configuration has no cniVersion, which means 0.1.0",
        remedy: "set cniVersion to one of \(CNIVersion.supportedText)")
    }
    guard let version = CNIVersion(text), CNIVersion.supported.contains(version) || command == .version else {
      throw CNIError(
        .incompatibleVersion, "version '\(text)' of the CNI specification is not spoken here",
        remedy: "set cniVersion to one of \(CNIVersion.supportedText)")
    }
    guard version >= command.since else {
      throw CNIError(
        .incompatibleVersion, "\(command.rawValue) came with version \(command.since), and cniVersion is \(version)",
        remedy: "set cniVersion to \(CNIVersion.newest)")
    }
    return version
  }

  private static func attachments(_ list: JSON, _ reader: Reader) throws(CNIError) -> Set<Attachment> {
    var result: Set<Attachment> = []
    let entries = list.elements ?? [.null]
    for entry in entries {
      guard let container = entry["containerID"]?.text, let interface = entry["ifname"]?.text else {
        throw reader.invalid(
          "cni.dev/valid-attachments", "has an entry without containerID and ifname",
          "nothing was collected; it is the runtime's to give both")
      }
      result.insert(Attachment(containerID: container, interface: interface))
    }
    return result
  }
}

/// What a runtime asks of a plugin (section 2): the command, the environment that goes with it, and the network
/// configuration.
public struct CNIRequest: Sendable, Equatable {
  public enum Command: String, Sendable, CaseIterable {
    case add = "ADD"
    case delete = "DEL"
    case check = "CHECK"
    case collect = "GC"
    case status = "STATUS"
    case version = "VERSION"

    /// The version of the specification that brought it.
    var since: CNIVersion {
      switch self {
      case .add, .delete, .version: CNIVersion(0, 3, 0)
      case .check: CNIVersion(0, 4, 0)
      case .collect, .status: CNIVersion(1, 1, 0)
      }
    }
  }

  public var command: Command
  /// CNI_CONTAINERID; empty for GC, STATUS and VERSION.
  public var containerID: String
  /// CNI_NETNS: the path of the container's network namespace. DEL may come without.
  public var namespacePath: String?
  /// CNI_IFNAME: the name of the interface in the container.
  public var interface: String
  /// CNI_ARGS, split up.
  public var arguments: [String: String]
  /// CNI_PATH: where other plugins lie.
  public var path: [String]
  public var configuration: NetworkConfiguration

  public init(
    _ command: Command, containerID: String = "", namespacePath: String? = nil, interface: String = "",
    arguments: [String: String] = [:], path: [String] = [], configuration: NetworkConfiguration
  ) {
    self.command = command
    self.containerID = containerID
    self.namespacePath = namespacePath
    self.interface = interface
    self.arguments = arguments
    self.path = path
    self.configuration = configuration
  }

  /// Reads the environment and what came on standard input. `name` gives the value of an environment variable; an empty
  /// one counts as absent, as the specification says of DEL.
  public init(environment name: (String) -> String?, input: [UInt8]) throws(CNIError) {
    func variable(_ key: String) -> String? { name(key).flatMap { $0.isEmpty ? nil : $0 } }
    let word = variable("CNI_COMMAND") ?? ""
    guard let command = Command(rawValue: word) else {
      throw CNIError(
        .invalidEnvironment, "CNI_COMMAND is '\(word)'",
        remedy: "set it to one of \(Command.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    let names = command.needsContainer
    func required(_ key: String) throws(CNIError) -> String {
      if let value = variable(key) { return value }
      throw CNIError(
        .invalidEnvironment, "\(key) is missing", remedy: "\(command.rawValue) needs it; it is the runtime's to set")
    }
    let container = names ? try required("CNI_CONTAINERID") : ""
    if names, !CNIRequest.isContainerID(container) {
      throw CNIError(
        .invalidEnvironment, "CNI_CONTAINERID '\(container)' is not allowed",
        remedy: "it begins with a letter or digit and goes on with letters, digits, '_', '.' and '-'")
    }
    let interface = names ? try required("CNI_IFNAME") : ""
    if names, let problem = CNIRequest.problem(ofInterface: interface) {
      throw CNIError(.invalidEnvironment, "CNI_IFNAME '\(interface)' \(problem)", remedy: "use a name such as eth0")
    }
    let namespace = command == .add || command == .check ? try required("CNI_NETNS") : variable("CNI_NETNS")
    self.init(
      command, containerID: container, namespacePath: namespace, interface: interface,
      arguments: try CNIRequest.arguments(variable("CNI_ARGS") ?? ""),
      path: (variable("CNI_PATH") ?? "").split(separator: ":").map(String.init),
      configuration: try NetworkConfiguration(parsing: input, for: command))
  }

  /// Section 2, "Parameters": `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
  static func isContainerID(_ text: String) -> Bool { isName(text) && text.utf8.count <= 255 }

  /// A container's ID and a network's name follow the same rule.
  static func isName(_ text: String) -> Bool {
    func isAlphanumeric(_ octet: UInt8) -> Bool {
      switch octet {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        true
      default: false
      }
    }
    guard let first = text.utf8.first, isAlphanumeric(first) else { return false }
    return text.utf8.allSatisfy {
      isAlphanumeric($0) || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: ".") || $0 == UInt8(ascii: "-")
    }
  }

  /// What Linux does not allow in an interface's name.
  static func problem(ofInterface name: String) -> String? {
    if name.utf8.count > 15 { return "is longer than 15 octets" }
    if name == "." || name == ".." { return "is no name" }
    let isForbidden: (UInt8) -> Bool = {
      $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: ":") || $0 <= 0x20 || $0 == 0x7f
    }
    return name.utf8.contains(where: isForbidden) ? "has a '/', a ':' or a space in it" : nil
  }

  /// `KEY=VALUE;KEY=VALUE`
  static func arguments(_ text: String) throws(CNIError) -> [String: String] {
    var result: [String: String] = [:]
    for part in text.split(separator: ";") {
      guard let equals = part.firstIndex(of: "="), equals > part.startIndex else {
        throw CNIError(
          .invalidEnvironment, "CNI_ARGS has '\(part)', which is no KEY=VALUE",
          remedy: "write CNI_ARGS as KEY=VALUE pairs with ';' between them")
      }
      result[String(part[..<equals])] = String(part[part.index(after: equals)...])
    }
    return result
  }
}

extension CNIRequest.Command {
  /// Whether it is about one container's interface.
  public var needsContainer: Bool { self == .add || self == .delete || self == .check }
}

// MARK: From the plugin to the agent

extension CNIRequest {
  /// The request as one line for the agent's socket.
  public var message: JSON {
    JSON([
      "command": .string(command.rawValue), "containerID": .string(containerID),
      "netns": namespacePath.map { .string($0) }, "ifname": .string(interface),
      "args": .object(arguments.sorted { $0.key < $1.key }.map { JSON.Member($0.key, .string($0.value)) }),
      "path": .array(path.map { .string($0) }), "config": configuration.json,
    ])
  }

  /// Reads what `message` wrote, with the same checks as what a runtime says.
  public init(message: JSON) throws(CNIError) {
    var variables: [String: String] = [:]
    variables["CNI_COMMAND"] = message["command"]?.text
    variables["CNI_CONTAINERID"] = message["containerID"]?.text
    variables["CNI_NETNS"] = message["netns"]?.text
    variables["CNI_IFNAME"] = message["ifname"]?.text
    variables["CNI_PATH"] = message["path"]?.elements?.compactMap(\.text).joined(separator: ":")
    variables["CNI_ARGS"] =
      message["args"]?.members?.map { "\($0.name)=\($0.value.text ?? "")" }.joined(separator: ";")
    let configuration = message["config"]?.serialized ?? ""
    try self.init(environment: { variables[$0] }, input: Array(configuration.utf8))
  }
}

/// What a plugin answers when it could not do what it was asked (section 5, Error): printed as JSON on standard output,
/// with a non-zero exit status. `details` always says what to do next (CNI-9).
public struct CNIError: Error, Sendable, Equatable, CustomStringConvertible {
  public struct Code: RawRepresentable, Sendable, Hashable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }

    public static let incompatibleVersion = Code(rawValue: 1)
    public static let unsupportedField = Code(rawValue: 2)
    /// The container is unknown: the runtime need not clean up.
    public static let unknownContainer = Code(rawValue: 3)
    public static let invalidEnvironment = Code(rawValue: 4)
    public static let inputOutput = Code(rawValue: 5)
    public static let undecodable = Code(rawValue: 6)
    public static let invalidConfiguration = Code(rawValue: 7)
    public static let invalidNamespace = Code(rawValue: 8)
    /// A passing condition: the runtime should ask again.
    public static let tryAgain = Code(rawValue: 11)
    /// STATUS: ADD would fail.
    public static let notAvailable = Code(rawValue: 50)
    /// STATUS: ADD would fail, and containers that run may be cut off.
    public static let limitedConnectivity = Code(rawValue: 51)

    // From 100 on they are the plugin's own.
    /// The container has an interface of that name already.
    public static let interfaceExists = Code(rawValue: 100)
    /// No free address.
    public static let noAddress = Code(rawValue: 101)
    /// The address that was asked for is taken, or no pool has it.
    public static let addressRefused = Code(rawValue: 102)
    /// The kernel refused.
    public static let kernel = Code(rawValue: 103)
    /// CHECK found that something is not as ADD left it.
    public static let checkFailed = Code(rawValue: 104)
    /// A delegated IPAM plugin cannot be run.
    public static let delegate = Code(rawValue: 105)
  }

  public var code: Code
  /// What went wrong.
  public var message: String
  /// What to do about it.
  public var remedy: String

  public init(_ code: Code, _ message: String, remedy: String) {
    self.code = code
    self.message = message
    self.remedy = remedy
  }

  public var description: String { "\(message); \(remedy) (CNI error \(code.rawValue))" }

  /// The error as it is printed. `version`: that of the request, where it could be read.
  public func json(version: String?) -> JSON {
    JSON([
      "cniVersion": .string(version ?? CNIVersion.newest.description), "code": .number(code.rawValue),
      "msg": .string(message), "details": .string(remedy),
    ])
  }

  /// Reads an error that another plugin printed; nil where it is none.
  public init?(_ json: JSON) {
    guard let code = json["code"]?.integer, let message = json["msg"]?.text else { return nil }
    self.init(Code(rawValue: code), message, remedy: json["details"]?.text ?? "")
  }
}

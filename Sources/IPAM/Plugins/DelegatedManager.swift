import Addresses
import CNI
import Glibc
import Synchronization

/// Addresses from another IPAM plugin: its program is run as the CNI specification says (section 4).
///
/// One manager is for one request of a runtime, whose environment and configuration the plugin gets as they came.
public final class DelegatedManager: AddressManager {
  private let request: CNIRequest
  private let program: String
  private let timeout: Duration

  /// Finds the program of `ipam.type` in CNI_PATH. `timeout`: how long it may take; a DHCP server may take its time.
  public init(_ request: CNIRequest, timeout: Duration = .seconds(60)) throws(IPAMError) {
    self.request = request
    self.timeout = timeout
    let type = request.configuration.addressManager ?? ""
    let candidates = request.path.map { "\($0)/\(type)" }
    guard let program = candidates.first(where: { unsafe access($0, X_OK) == 0 }) else {
      throw IPAMError(
        .plugin(code: CNIError.Code.delegate.rawValue),
        "the IPAM plugin '\(type)' is in none of the directories of CNI_PATH "
          + "(\(request.path.isEmpty ? "which is empty" : request.path.joined(separator: ", "))); install it there, or "
          + "set ipam.type to \"kalsae\"")
    }
    self.program = program
  }

  public func assign(_ request: AssignRequest) throws(IPAMError) -> Assignment {
    let result: CNIResult
    do throws(IPAMError) {
      let (output, version) = try run(.add)
      do throws(CNIError) {
        result = try CNIResult(try Self.parse(output, program), version: version, of: "the result of \(program)")
      } catch { throw IPAMError(error) }
      guard !result.addresses.isEmpty else {
        throw IPAMError(
          .plugin(code: CNIError.Code.delegate.rawValue),
          "\(program) gave no address; look at its configuration in ipam")
      }
    } catch {
      // What it may have given before it failed (section 4: the plugin is to be called with DEL).
      _ = try? run(.delete)
      throw error
    }
    return Assignment(
      addresses: result.addresses.map {
        AssignedAddress(address: $0.address, prefixLength: $0.prefixLength, gateway: $0.gateway)
      },
      routes: result.routes.map { AssignedRoute(destination: $0.destination, gateway: $0.gateway) },
      dns: result.dns.map(NameResolution.init))
  }

  public func release(_ attachment: Attachment) throws(IPAMError) { _ = try run(.delete) }

  /// Only a plugin of version 1.1.0 can collect; of others nothing is.
  public func collect(keeping valid: Set<Attachment>, network: String) throws(IPAMError) -> [Attachment] {
    guard try supports(.collect) else { return [] }
    _ = try run(.collect)
    return []
  }

  public func check(_ attachment: Attachment, has addresses: [IPAddress]) throws(IPAMError) {
    guard try supports(.check) else { return }
    _ = try run(.check)
  }

  public func ready() throws(IPAMError) {
    if try supports(.status) { _ = try run(.status) }
  }

  // MARK: Running

  private func run(_ command: CNIRequest.Command) throws(IPAMError) -> (output: [UInt8], version: CNIVersion) {
    let version = try version()
    var configuration = request.configuration.json
    configuration["cniVersion"] = .string(version.description)
    let output = try run(command, configuration)
    return (output, version)
  }

  private func run(_ command: CNIRequest.Command, _ configuration: JSON) throws(IPAMError) -> [UInt8] {
    var environment = ["CNI_COMMAND": command.rawValue, "CNI_PATH": request.path.joined(separator: ":")]
    // Plugins call other programs, and the daemon of some is found by a variable.
    for name in ["PATH", "HOME"] { environment[name] = unsafe getenv(name).map { unsafe String(cString: $0) } }
    if command == .add || command == .delete || command == .check {
      environment["CNI_CONTAINERID"] = request.containerID
      environment["CNI_IFNAME"] = request.interface
      environment["CNI_NETNS"] = request.namespacePath ?? ""
      environment["CNI_ARGS"] = request.arguments.sorted { $0.key < $1.key }
        .map { "\($0.key)=\($0.value)" }.joined(separator: ";")
    }
    let answer = try PluginProcess.run(
      program, environment: environment, input: Array(configuration.serialized.utf8), timeout: timeout)
    if answer.status == 0 { return answer.output }
    if let json = try? JSON(parsing: answer.output), let error = CNIError(json) {
      let more = error.remedy.isEmpty ? "" : " (\(error.remedy))"
      throw IPAMError(.plugin(code: error.code.rawValue), "\(program): \(error.message)\(more); see to what it says")
    }
    throw IPAMError(
      .plugin(code: CNIError.Code.delegate.rawValue),
      "\(program) "
        + (answer.status.map { "ended with status \($0)" } ?? "was killed")
        + " and no CNI error: \(answer.errors); run it "
        + "by hand with the network configuration")
  }

  private static func parse(_ output: [UInt8], _ program: String) throws(CNIError) -> JSON {
    do throws(JSONError) { return try JSON(parsing: output) } catch {
      throw CNIError(
        .undecodable, "what \(program) printed is no JSON: \(error)", remedy: "look at the plugin, or take another one")
    }
  }

  // MARK: Versions

  /// What each program supports; asked once.
  private static let known = Mutex<[String: [CNIVersion]]>([:])

  private func versions() throws(IPAMError) -> [CNIVersion] {
    if let versions = Self.known.withLock({ $0[program] }) { return versions }
    let output = try run(.version, JSON(["cniVersion": .string(request.configuration.version.description)]))
    guard let list = (try? JSON(parsing: output))?["supportedVersions"]?.elements else {
      throw IPAMError(
        .plugin(code: CNIError.Code.delegate.rawValue),
        "\(program) does not say which versions of the CNI specification "
          + "it supports; is it an IPAM plugin?")
    }
    let versions = list.compactMap { $0.text.flatMap(CNIVersion.init) }.sorted()
    Self.known.withLock { $0[program] = versions }
    return versions
  }

  /// The newest version that both the configuration and the plugin know: older plugins serve newer configurations.
  private func version() throws(IPAMError) -> CNIVersion {
    let asked = request.configuration.version
    guard let version = try versions().last(where: { $0 <= asked && CNIVersion.supported.contains($0) }) else {
      throw IPAMError(
        .plugin(code: CNIError.Code.incompatibleVersion.rawValue),
        "\(program) supports none of the versions up to \(asked); "
          + "set cniVersion to one that it supports: \(try versions().map(\.description).joined(separator: ", "))")
    }
    return version
  }

  private func supports(_ command: CNIRequest.Command) throws(IPAMError) -> Bool {
    switch command {
    case .collect, .status: try version() >= CNIVersion(1, 1, 0)
    case .check: try version() >= CNIVersion(0, 4, 0)
    default: true
    }
  }
}

extension NameResolution {
  init(_ json: JSON) {
    func list(_ name: String) -> [String]? { json[name]?.elements?.compactMap(\.text) }
    self.init(
      nameservers: list("nameservers"), domain: json["domain"]?.text, search: list("search"), options: list("options"))
  }
}

import Agent
import ArgumentParser
import CNI
import Glibc

extension Kalsae {
  /// `kalsae cni`
  struct CNICommand: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "cni",
      abstract: "Put the CNI plugin where container runtimes find it, or take it away.",
      discussion: """
        A container runtime starts the plugin for each pod, and the plugin has the agent of this node do the work. Start the \
        agent first: with a configuration and without an agent the runtime starts no pods.

        EXAMPLES
          kalsae run --state /etc/kalsae --node node-a &
          kalsae cni install --node node-a
          ctr run --rm --cni --rootfs /srv/busybox web /bin/ip address
        """,
      subcommands: [Install.self, Uninstall.self])
  }
}

/// Where runtimes look for plugins and for their configuration.
struct CNIPlaces: ParsableArguments {
  @Option(
    name: .customLong("bin-dir"), help: ArgumentHelp("Where the runtime looks for plugins.", valueName: "dir"),
    completion: .directory)
  var programs = "/opt/cni/bin"

  @Option(
    name: .customLong("conf-dir"),
    help: ArgumentHelp("Where the runtime looks for network configurations.", valueName: "dir"), completion: .directory)
  var configurations = "/etc/cni/net.d"

  @Option(name: .long, help: ArgumentHelp("The name of the network.", valueName: "name"))
  var name = "kalsae"

  static let plugin = "kalsae-cni"

  var program: String { "\(programs)/\(CNIPlaces.plugin)" }
  var file: String { "10-\(name).conflist" }
  var configuration: String { "\(configurations)/\(file)" }

  func validate() throws {
    let parsed = try? NetworkConfiguration(
      JSON(["cniVersion": .string(CNIVersion.newest.description), "name": .string(name)]))
    guard parsed != nil else {
      throw ValidationError("--name '\(name)': letters and digits first, then also '_', '.' and '-'")
    }
  }
}

extension Kalsae.CNICommand {
  struct Install: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Put the plugin and its network configuration in place.",
      discussion: """
        The program comes first and the configuration last, each whole at once: a runtime that looks in between sees the \
        old state or the new one. Runtimes take the first configuration by name.

        EXAMPLES
          kalsae cni install --node node-a
          kalsae cni install --node node-a --ipam '{"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]]}'

        EXIT STATUS
          0 done; 64 usage; 65 the --ipam makes no sense; 66 no plugin to install; 74 writing failed; 77 not root.
        """)

    @Option(
      name: .long, help: ArgumentHelp("The node whose agent is asked. (default: the only one)", valueName: "name"))
    var node: String?

    @Option(
      name: .long,
      help: ArgumentHelp("Where the agent answers the plugin. (default: /run/kalsae/NODE.cni)", valueName: "path"),
      completion: .file())
    var socket: String?

    @Option(
      name: .long, help: ArgumentHelp("The agent's --data. (default: /var/lib/kalsae/NODE)", valueName: "dir"),
      completion: .directory)
    var data: String?

    @Option(name: .long, help: ArgumentHelp("The section \"ipam\" of the configuration.", valueName: "json"))
    var ipam = #"{"type": "kalsae"}"#

    @Option(name: .long, help: ArgumentHelp("How pods are attached: veth or tap.", valueName: "kind"))
    var interface = Kind.veth

    @Option(
      name: .long,
      help: ArgumentHelp("The program to install. (default: kalsae-cni beside kalsae)", valueName: "file"),
      completion: .file())
    var plugin: String?

    @OptionGroup var places: CNIPlaces

    enum Kind: String, ExpressibleByArgument, CaseIterable { case veth, tap }

    func run() throws {
      let list = try configuration()
      let source = plugin ?? Install.folderOfSelf + "/" + CNIPlaces.plugin
      let program = try Install.read(source)
      try Install.write(program, to: places.programs, CNIPlaces.plugin, mode: 0o755)
      try Standard.output("\(places.program)\n")
      try Install.write(Array((list.pretty + "\n").utf8), to: places.configurations, places.file, mode: 0o644)
      try Standard.output("\(places.configuration)\n")
      let endings = [".conf", ".conflist", ".json"]
      for name in Folders.names(in: places.configurations) ?? []
      where name < places.file && endings.contains(where: { name.hasSuffix($0) }) {
        Standard.error(
          "kalsae: warning: \(places.configurations)/\(name) comes first by name; the runtime uses it and not this one\n"
        )
      }
    }

    /// The configuration list, which the plugin itself would take.
    private func configuration() throws -> JSON {
      let section: JSON
      do throws(JSONError) { section = try JSON(parsing: ipam) } catch {
        throw Failure(.data, "--ipam: no JSON: \(error)")
      }
      let socket = socket ?? node.map { "\(AgentConfiguration.socketFolder)/\($0).cni" }
      let data = data ?? node.map(AgentConfiguration.defaultDataDirectory(node:))
      let plugin = JSON([
        "type": .string(CNIPlaces.plugin), "agentSocket": socket.map { .string($0) },
        "dataDirectory": data.map { .string($0) }, "interface": .string(interface.rawValue), "ipam": section,
        "capabilities": JSON([
          "mac": .bool(true), "ips": .bool(true), "portMappings": .bool(true), "bandwidth": .bool(true),
          // Only this manager has ranges that somebody could choose from.
          "ipRanges": section["type"]?.text == "host-local" ? .bool(true) : nil,
        ]),
      ])
      var derived = plugin
      derived["cniVersion"] = .string(CNIVersion.newest.description)
      derived["name"] = .string(places.name)
      do throws(CNIError) { _ = try NetworkConfiguration(derived) } catch {
        throw Failure(.data, "\(error.message): \(error.remedy)")
      }
      return JSON([
        // Runtimes that know `cniVersions` take the newest that both speak.
        "cniVersion": .string("1.0.0"),
        "cniVersions": .array(CNIVersion.supported.map { .string($0.description) }),
        "name": .string(places.name), "plugins": .array([plugin]),
      ])
    }
  }

  struct Uninstall: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Take the network configuration away, and then the plugin.",
      discussion: """
        Pods that run keep their interfaces, but the runtime can no longer ask to take them back: remove the pods first.

        EXIT STATUS
          0 done, or nothing was there; 65 the configuration is somebody else's; 74 removing failed; 77 not root.
        """)

    @OptionGroup var places: CNIPlaces

    func run() throws {
      if let octets = try? Kalsae.CNICommand.Install.read(places.configuration) {
        let types = (try? JSON(parsing: octets))?["plugins"]?.elements?.map { $0["type"]?.text }
        guard types?.contains(CNIPlaces.plugin) == true else {
          throw Failure(.data, "\(places.configuration): does not name \(CNIPlaces.plugin); remove it by hand")
        }
        try remove(places.configuration)
      }
      try remove(places.program)
    }

    private func remove(_ path: String) throws {
      guard unsafe unlink(path) != 0 else { return try Standard.output("removed \(path)\n") }
      guard errno != ENOENT else { return }
      throw Kalsae.CNICommand.Install.failure("remove \(path)")
    }
  }
}

// MARK: Files

extension Kalsae.CNICommand.Install {
  static func failure(_ operation: String) -> Failure {
    let code = errno
    let status: Failure.Status = code == EACCES || code == EPERM ? .permission : .io
    return Failure(status, unsafe "cannot \(operation): \(String(cString: strerror(code)))")
  }

  static func read(_ path: String) throws -> [UInt8] {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else {
      throw Failure(.missing, "cannot open \(path): build it with `make build`, or name the plugin with --plugin")
    }
    defer { close(file) }
    var result: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    while true {
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress, $0.count) }
      guard count >= 0 else { throw failure("read \(path)") }
      if count == 0 { return result }
      result += buffer[..<count]
      guard result.count < 1 << 28 else { throw Failure(.data, "\(path) is too long for a plugin") }
    }
  }

  /// Writes a file beside its place and renames it: whoever looks sees all of it or what was there before.
  static func write(_ octets: [UInt8], to folder: String, _ name: String, mode: mode_t) throws {
    var current = folder.hasPrefix("/") ? "" : "."
    for part in folder.split(separator: "/") {
      current += "/\(part)"
      guard unsafe mkdir(current, 0o755) == 0 || errno == EEXIST else { throw failure("make the folder \(current)") }
    }
    let hidden = "\(folder)/.\(name).\(getpid())"
    let file = unsafe open(hidden, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
    guard file >= 0 else { throw failure("create \(hidden)") }
    var written = 0
    var isWritten = true
    while written < octets.count, isWritten {
      let count = unsafe octets.withUnsafeBytes {
        unsafe Glibc.write(file, $0.baseAddress! + written, $0.count - written)
      }
      isWritten = count > 0 || errno == EINTR
      written += max(count, 0)
    }
    isWritten = isWritten && fchmod(file, mode) == 0 && fsync(file) == 0
    close(file)
    guard isWritten, unsafe rename(hidden, "\(folder)/\(name)") == 0 else {
      let error = failure("write \(folder)/\(name)")
      _ = unsafe unlink(hidden)
      throw error
    }
  }

  static var folderOfSelf: String {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = unsafe buffer.withUnsafeMutableBytes {
      unsafe readlink("/proc/self/exe", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
    }
    let own = String(decoding: buffer[..<max(0, count)], as: UTF8.self)
    return own.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" }
  }
}

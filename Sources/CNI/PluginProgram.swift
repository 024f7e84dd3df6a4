import Glibc

/// What every program that is a plugin does around its work: it reads what a runtime hands it, answers what needs no work,
/// and prints results and errors (section 3 of the specification).
public struct PluginProgram {
  /// What is printed where no command was given (CNI-2).
  public var about: String
  /// Who hands the plugin its configuration, for errors.
  public var caller: String

  public init(about: String, caller: String) {
    self.about = about
    self.caller = caller
  }

  /// Runs the plugin on its environment and standard input: `perform` does what was asked, and returns what to print.
  /// The exit status.
  public func run(_ perform: (CNIRequest) throws(CNIError) -> JSON?) -> Int32 {
    guard let command = PluginProgram.variable("CNI_COMMAND"), !command.isEmpty else {
      PluginProgram.say(about, on: 2)
      return 0
    }
    guard let input = DeleteSpool.readAll(0) else {
      return fail(
        CNIError(
          .inputOutput, "the network configuration cannot be read from standard input: error \(errno)",
          remedy: "hand it on standard input, as \(caller)"), nil)
    }
    let asked = (try? JSON(parsing: input))?["cniVersion"]?.text
    if command == "VERSION" {
      PluginProgram.say(CNIVersion.report(asked: asked).pretty + "\n", on: 1)
      return 0
    }
    do throws(CNIError) {
      let request = try CNIRequest(environment: PluginProgram.variable, input: input)
      if let result = try perform(request) { PluginProgram.say(result.pretty + "\n", on: 1) }
      return 0
    } catch {
      return fail(error, asked)
    }
  }

  private func fail(_ error: CNIError, _ version: String?) -> Int32 {
    PluginProgram.say(error.json(version: version).pretty + "\n", on: 1)
    return 1
  }

  private static func variable(_ name: String) -> String? {
    unsafe getenv(name).map { unsafe String(cString: $0) }
  }

  private static func say(_ text: String, on descriptor: Int32) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = unsafe rest.withUnsafeBytes { unsafe write(descriptor, $0.baseAddress, $0.count) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }
}

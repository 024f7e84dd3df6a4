import Addresses
import ArgumentParser

/// How a command writes its result.
enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
  case text
  case json
}

/// Whose state a command looks at.
struct StateOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp("The directory of Kubernetes manifests.", valueName: "dir"),
    completion: .directory)
  var state: String?

  @Option(name: .long, help: ArgumentHelp("The node whose data plane it is.", valueName: "name"))
  var node: String?
}

/// `NAME=aa:bb:cc:dd:ee:ff`
struct PortMAC: ExpressibleByArgument {
  var port: String
  var mac: MACAddress

  init?(argument: String) {
    guard let equals = argument.firstIndex(of: "="), argument[..<equals] != "",
      let mac = MACAddress(parsing: argument[argument.index(after: equals)...])
    else { return nil }
    port = String(argument[..<equals])
    self.mac = mac
  }
}

import ArgumentParser

struct Kalsae: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kalsae", abstract: "A node's network data plane in user space.",
    subcommands: [Run.self])
}

Kalsae.main()

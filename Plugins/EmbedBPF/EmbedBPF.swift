import Foundation
import PackagePlugin

/// Compiles the programs in bpf/ with the toolchain's clang and puts the objects into a Swift file of the target.
@main
struct EmbedBPF: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
    let package = context.package.directoryURL
    let folder = package.appending(path: "bpf")
    let layouts = package.appending(path: "Sources/CEBPF/include")
    let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
      .filter { ["c", "h"].contains($0.pathExtension) }
      .sorted { $0.path() < $1.path() }
    let sources = files.filter { $0.lastPathComponent.hasSuffix(".bpf.c") }
    let output = context.pluginWorkDirectoryURL.appending(path: "EmbeddedObjects.swift")
    return [
      .buildCommand(
        displayName: "Compiling the programs in bpf/",
        executable: try context.tool(named: "embed-bpf").url,
        arguments: [output.path(), layouts.path()] + sources.map { $0.path() },
        inputFiles: files + [layouts.appending(path: "ebpf_maps.h")],
        outputFiles: [output])
    ]
  }
}

import Foundation

// embed-bpf OUTPUT.swift INCLUDE-FOLDER PROGRAM.bpf.c…
//
// Part of the build: compiles each program for the kernel's virtual machine and writes the objects as strings of
// hexadecimal digits, which compile a hundred times faster than arrays.

func fail(_ text: String) -> Never {
  FileHandle.standardError.write(Data("embed-bpf: error: \(text)\n".utf8))
  exit(1)
}

/// The clang of the toolchain that builds: beside `swift`; $CLANG overrides.
func findTool(_ name: String) -> String? {
  let environment = ProcessInfo.processInfo.environment
  if name == "clang", let chosen = environment["CLANG"] { return chosen }
  let folders = (environment["PATH"] ?? "").split(separator: ":").map(String.init)
  let manager = FileManager.default
  if let folder = folders.first(where: { manager.isExecutableFile(atPath: "\($0)/swift") }) {
    let real = URL(fileURLWithPath: "\(folder)/swift").resolvingSymlinksInPath().deletingLastPathComponent().path
    if manager.isExecutableFile(atPath: "\(real)/\(name)") { return "\(real)/\(name)" }
  }
  return folders.map { "\($0)/\(name)" }.first { manager.isExecutableFile(atPath: $0) }
}

func run(_ tool: String, _ arguments: [String]) {
  guard let path = findTool(tool) else {
    fail("\(tool) is neither beside swift nor on PATH; it is part of the Swift toolchain, or set CLANG")
  }
  let process = Process()
  process.executableURL = URL(fileURLWithPath: path)
  process.arguments = arguments
  do { try process.run() } catch { fail("cannot run \(path): \(error)") }
  process.waitUntilExit()
  if process.terminationStatus != 0 {
    fail(
      "\(path) \(arguments.joined(separator: " ")) ended with \(process.terminationStatus); is libbpf-dev installed?")
  }
}

let arguments = CommandLine.arguments
guard arguments.count > 3 else { fail("usage: embed-bpf OUTPUT.swift INCLUDE-FOLDER PROGRAM.bpf.c…") }
let output = URL(fileURLWithPath: arguments[1])

#if arch(x86_64)
  let machine = "x86_64-linux-gnu"
#elseif arch(arm64)
  let machine = "aarch64-linux-gnu"
#else
  let machine = "unknown"
#endif

var text = "// Made by embed-bpf from bpf/.\n\nenum EmbeddedObjects {\n"
for source in arguments.dropFirst(3) {
  let name = String(URL(fileURLWithPath: source).lastPathComponent.dropLast(".bpf.c".count))
  let object = output.deletingLastPathComponent().appending(path: "\(name).o")
  run(
    "clang",
    [
      "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", arguments[2],
      "-idirafter", "/usr/include/\(machine)", "-c", source, "-o", object.path,
    ])
  // The kernel's type information stays, the debugger's goes.
  run("llvm-objcopy", ["--strip-debug", object.path])
  guard let data = try? Data(contentsOf: object) else { fail("cannot read \(object.path)") }
  var digits = ""
  digits.reserveCapacity(data.count * 2)
  for byte in data {
    for digit in [byte >> 4, byte & 15] {
      digits.unicodeScalars.append(Unicode.Scalar(digit < 10 ? 48 + digit : 87 + digit))
    }
  }
  text += "  static let \(name): StaticString =\n    \"\(digits)\"\n"
}
text += "}\n"
do { try Data(text.utf8).write(to: output) } catch { fail("cannot write \(output.path): \(error)") }

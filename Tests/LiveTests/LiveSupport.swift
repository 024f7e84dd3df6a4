import Glibc
import Lab
import Testing

/// Why the tests that make network namespaces are skipped here, as `make test` shows it.
let needsNamespaces: Comment = "needs root, network namespaces and iproute2"

/// The path of a program of this package, built beside the tests.
func builtProgram(_ name: String) throws -> String {
  var buffer = [UInt8](repeating: 0, count: 4096)
  let count = unsafe buffer.withUnsafeMutableBytes {
    unsafe readlink("/proc/self/exe", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
  }
  let own = String(decoding: buffer[..<max(0, count)], as: UTF8.self)
  let path = own.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" } + "/\(name)"
  guard unsafe access(path, X_OK) == 0 else {
    throw LabError.invalid("\(path) is not there: `swift build --build-tests` makes it")
  }
  return path
}

/// The namespaces of labs of one process that are there now.
func namespaces(ofProcess pid: Int32, in lab: Lab) throws -> [String] {
  try lab.run(["ip", "netns", "list"]).standardOutput.split(separator: "\n")
    .compactMap { $0.split(separator: " ").first.map(String.init) }
    .filter { $0.hasPrefix("kl\(pid)-") }
}

/// The folder of the package.
let projectFolder = #filePath.split(separator: "/").dropLast(3).reduce("") { "\($0)/\($1)" }

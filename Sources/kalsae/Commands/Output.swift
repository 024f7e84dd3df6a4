import ArgumentParser
import Glibc

/// Writes a line to the second output, behind the program's name.
func complain(_ text: String) {
  let line = Array("kalsae: \(text)\n".utf8)
  _ = unsafe line.withUnsafeBytes { unsafe write(2, $0.baseAddress, $0.count) }
}

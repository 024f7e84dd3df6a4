/// What the kernel's verifier has said, without the thousands of lines of states that led there: the messages of the
/// loader, the source line that was refused, and the last instructions before it.
struct VerifierLog {
  static func shortened(_ log: String, lines limit: Int = 16) -> String {
    let lines = log.split(separator: "\n").filter { line in
      !line.hasPrefix("processed ") && !line.hasPrefix("verification time") && !line.hasPrefix("stack depth")
        && !line.contains("-- BEGIN PROG LOAD LOG --") && !line.contains("-- END PROG LOAD LOG --")
    }
    guard lines.count > limit else { return lines.joined(separator: "\n") }
    // `; line of the source @ file:line` stands before the instructions that it became.
    let source = lines.last { $0.hasPrefix(";") }
    var kept = Array(lines.suffix(limit))
    if let source, !kept.contains(source) { kept.insert(source, at: 0) }
    if let first = lines.first, !kept.contains(first) { kept.insert(first, at: 0) }
    return "(\(lines.count - kept.count) lines left out)\n" + kept.joined(separator: "\n")
  }
}

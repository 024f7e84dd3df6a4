import Lab

/// What the demo says, and what went wrong so far.
final class DemoReport {
  private(set) var failures: [String] = []
  /// What is being shown, before each step.
  var progress = ""
  private let start = ContinuousClock.now

  func say(_ text: String) { try? Standard.output(text + "\n") }

  /// Says what is being done: on a terminal in one line that is written over, else in a line for each.
  func step(_ text: String) {
    let line = "\(progress): \(text)…"
    if Standard.errorIsTerminal {
      Standard.error("\r\u{1b}[K" + line)
    } else {
      Standard.error(line + "\n")
    }
  }

  func clearProgress() { if Standard.errorIsTerminal { Standard.error("\r\u{1b}[K") } }

  func check(_ isRight: Bool, _ subject: String, _ text: @autoclosure () -> String) {
    if !isRight { fail(subject, text()) }
  }

  func fail(_ subject: String, _ text: String) { failures.append("\(subject): \(text)") }

  /// Says how it all went; with the last that the agents said where something went wrong.
  func finish(_ clusters: [Cluster]) {
    clearProgress()
    let seconds = start.duration(to: .now).components.seconds
    if failures.isEmpty { return say("All is well, after \(seconds) s.") }
    say("\(failures.count) things went wrong, after \(seconds) s:")
    for failure in failures { say("  " + failure) }
    for cluster in clusters {
      for node in cluster.nodes {
        let lines = cluster.logText(of: node).split(separator: "\n").suffix(8)
        say("the last lines of \(node.name)'s agent:\n  " + lines.joined(separator: "\n  "))
      }
    }
  }
}

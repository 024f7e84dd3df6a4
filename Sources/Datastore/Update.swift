import Model

/// What one look at the source of desired state brought.
public struct Update: Sendable {
  /// The steps from the last state to this one: upserts in the order of `Kind`, then deletes.
  public var changes: [Change]
  /// What is wrong now and was not at the last look. What they concern keeps its last good state.
  public var problems: [ManifestError]
  /// What was wrong at the last look and is no more.
  public var resolved: [ManifestError]
  /// What the author should know, each once.
  public var notices: [ManifestNotice]

  public init(
    changes: [Change] = [], problems: [ManifestError] = [], resolved: [ManifestError] = [],
    notices: [ManifestNotice] = []
  ) {
    self.changes = changes
    self.problems = problems
    self.resolved = resolved
    self.notices = notices
  }

  public var isEmpty: Bool { changes.isEmpty && problems.isEmpty && resolved.isEmpty && notices.isEmpty }
}

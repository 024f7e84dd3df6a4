/// Kubernetes' label selector (`metav1.LabelSelector`): all of its requirements must hold. The empty one selects all.
public struct LabelSelector: Sendable, Hashable {
  public struct Requirement: Sendable, Hashable {
    public enum Operator: String, Sendable, CaseIterable {
      case `in` = "In"
      case notIn = "NotIn"
      case exists = "Exists"
      case doesNotExist = "DoesNotExist"
    }

    public var key: String
    public var `operator`: Operator
    public var values: [String]

    public init(key: String, operator: Operator, values: [String] = []) {
      self.key = key
      self.operator = `operator`
      self.values = values
    }

    public func matches(_ labels: [String: String]) -> Bool {
      let value = labels[key]
      return switch `operator` {
      case .in: value.map(values.contains) ?? false
      // A label that is not there is not in any set.
      case .notIn: !(value.map(values.contains) ?? false)
      case .exists: value != nil
      case .doesNotExist: value == nil
      }
    }
  }

  public var matchLabels: [String: String]
  public var matchExpressions: [Requirement]

  public init(matchLabels: [String: String] = [:], matchExpressions: [Requirement] = []) {
    self.matchLabels = matchLabels
    self.matchExpressions = matchExpressions
  }

  /// Whether the selector selects everything.
  public var isEmpty: Bool { matchLabels.isEmpty && matchExpressions.isEmpty }

  public func matches(_ labels: [String: String]) -> Bool {
    matchLabels.allSatisfy { labels[$0.key] == $0.value } && matchExpressions.allSatisfy { $0.matches(labels) }
  }
}

extension Field {
  /// A label selector; nil where the field is absent, which is not the same as an empty selector. An unknown key is
  /// refused: without it the selector would select more than its author meant.
  public func labelSelector() -> LabelSelector? {
    guard exists, mapping() != nil else { return nil }
    refuseUnknown(["matchLabels", "matchExpressions"])
    for (key, value) in self["matchLabels"].entries() {
      if !NameRule.qualifiedName.allows(key) {
        value.fail("\(quoted(key)) is not a valid label key: \(NameRule.qualifiedName.requirement)")
      }
      _ = value.name(.labelValue)
    }
    let expressions: [LabelSelector.Requirement] = self["matchExpressions"].list { field in
      field.refuseUnknown(["key", "operator", "values"])
      let key = field["key"].required().name(.qualifiedName)
      let op = field["operator"].required().choice(LabelSelector.Requirement.Operator.self)
      let values = field["values"].list { $0.name(.labelValue) }
      guard let key, let op else { return nil }
      switch op {
      case .in, .notIn: if values.isEmpty { field["values"].fail("must not be empty for the operator \(op.rawValue)") }
      case .exists, .doesNotExist:
        if !values.isEmpty { field["values"].fail("must be empty for the operator \(op.rawValue)") }
      }
      return LabelSelector.Requirement(key: key, operator: op, values: values)
    }
    return LabelSelector(matchLabels: self["matchLabels"].strings(), matchExpressions: expressions)
  }
}

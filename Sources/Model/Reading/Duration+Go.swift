extension Duration {
  /// Reads Go's notation as Kubernetes uses it: `300ms`, `30s`, `1h30m`, `1.5h`. Units are ns, us (µs), ms, s, m and h.
  /// No sign; a number without a unit is refused, except 0. Nil where it is malformed or longer than some 30,000 years.
  public init?(goNotation text: String) {
    if text == "0" {
      self = .zero
      return
    }
    var total = 0.0
    var rest = text.unicodeScalars[...]
    guard !rest.isEmpty else { return nil }
    while !rest.isEmpty {
      let number = rest.prefix { ("0"..."9").contains($0) || $0 == "." }
      rest = rest[number.endIndex...]
      let unit = rest.prefix { !("0"..."9").contains($0) && $0 != "." }
      rest = rest[unit.endIndex...]
      guard number.first != ".", let value = Double(String(number)) else { return nil }
      switch String(unit) {
      case "ns": total += value * 1e-9
      case "us", "µs", "μs": total += value * 1e-6
      case "ms": total += value * 1e-3
      case "s": total += value
      case "m": total += value * 60
      case "h": total += value * 3600
      default: return nil
      }
    }
    guard total.isFinite, total < 1e12 else { return nil }
    let seconds = total.rounded(.down)
    self = .seconds(Int64(seconds)) + .nanoseconds(Int64(((total - seconds) * 1e9).rounded()))
  }

  /// The time in Go's notation, to the millisecond: `24h`, `1h30m`, `2m30s`, `500ms`.
  public var goNotation: String {
    let (seconds, attoseconds) = components
    let milliseconds = attoseconds / 1_000_000_000_000_000
    var text = ""
    if seconds >= 3600 { text += "\(seconds / 3600)h" }
    if seconds % 3600 >= 60 { text += "\(seconds % 3600 / 60)m" }
    if seconds % 60 > 0 { text += "\(seconds % 60)s" }
    if milliseconds > 0 { text += "\(milliseconds)ms" }
    return text.isEmpty ? "0s" : text
  }

  /// Whole milliseconds, rounded down.
  public var milliseconds: Int64 { components.seconds * 1000 + components.attoseconds / 1_000_000_000_000_000 }
}

import ArgumentParser

/// Refuses an option's number outside of `range`.
func requireNumber<Number: Comparable & LosslessStringConvertible>(
  _ option: String, _ number: Number, in range: ClosedRange<Number>
) throws(ValidationError) {
  guard range.contains(number) else {
    throw ValidationError("\(option): give a number from \(range.lowerBound) to \(range.upperBound)")
  }
}

/// `1.5M`: a number that people can read.
func short(_ number: UInt64) -> String {
  let units = ["", "k", "M", "G", "T", "P", "E"]
  var value = Double(number)
  var unit = 0
  while value >= 9_999.5, unit < units.count - 1 {
    value /= 1000
    unit += 1
  }
  return unit == 0 ? "\(number)" : "\(Int(value.rounded()))\(units[unit])"
}

/// `2d3h`, `4m10s`: a time that people can read.
func age(_ seconds: Int) -> String {
  switch seconds {
  case ..<120: "\(seconds)s"
  case ..<7200: "\(seconds / 60)m\(seconds % 60)s"
  case ..<172_800: "\(seconds / 3600)h\(seconds % 3600 / 60)m"
  default: "\(seconds / 86400)d\(seconds % 86400 / 3600)h"
  }
}

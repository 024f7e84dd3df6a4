/// A version of the CNI specification.
public struct CNIVersion: Sendable, Hashable, Comparable, CustomStringConvertible {
  public let major: Int
  public let minor: Int
  public let patch: Int

  /// Reads `1.1.0`; nil where it is no version.
  public init?(_ text: String) {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 3 else { return nil }
    let numbers = parts.compactMap { part in part.allSatisfy(\.isWholeNumber) ? Int(part) : nil }
    guard numbers.count == 3, numbers.allSatisfy({ $0 < 1000 }) else { return nil }
    self.init(numbers[0], numbers[1], numbers[2])
  }

  public init(_ major: Int, _ minor: Int, _ patch: Int) {
    self.major = major
    self.minor = minor
    self.patch = patch
  }

  public var description: String { "\(major).\(minor).\(patch)" }

  public static func < (a: CNIVersion, b: CNIVersion) -> Bool {
    (a.major, a.minor, a.patch) < (b.major, b.minor, b.patch)
  }

  public static let newest = CNIVersion(1, 1, 0)
  /// What Kalsae speaks (CNI-1), oldest first.
  public static let supported = [
    CNIVersion(0, 3, 0), CNIVersion(0, 3, 1), CNIVersion(0, 4, 0), CNIVersion(1, 0, 0), newest,
  ]

  public static var supportedText: String { supported.map(\.description).joined(separator: ", ") }

  /// The answer to VERSION (section 2, VERSION): `asked` is the version of the request, where there is one.
  public static func report(asked: String?) -> JSON {
    JSON([
      "cniVersion": .string(asked ?? newest.description),
      "supportedVersions": .array(supported.map { .string($0.description) }),
    ])
  }
}

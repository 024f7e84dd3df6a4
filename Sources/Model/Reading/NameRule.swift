/// The rules that the Kubernetes API server applies to names.
public struct NameRule: Sendable {
  let name: String
  let requirement: String
  let allows: @Sendable (String) -> Bool

  /// RFC 1123 label: namespaces and most names.
  public static let label = NameRule(
    name: "DNS label (RFC 1123)",
    requirement: "at most 63 lower-case letters, digits and '-', with a letter or digit at both ends"
  ) { isLabel($0.utf8, limit: 63) }

  /// RFC 1123 subdomain: names of pods, nodes and custom resources.
  public static let subdomain = NameRule(
    name: "DNS name (RFC 1123)",
    requirement: "at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part"
  ) { text in
    text.utf8.count <= 253
      && text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false).allSatisfy {
        isLabel($0, limit: 253)
      }
  }

  /// IANA service name: names of ports (RFC 6335, section 5.1).
  public static let portName = NameRule(
    name: "port name",
    requirement: "at most 15 lower-case letters, digits and single '-', with at least one letter and no '-' at the ends"
  ) { text in
    isLabel(text.utf8, limit: 15) && text.utf8.contains { $0 >= UInt8(ascii: "a") && $0 <= UInt8(ascii: "z") }
      && !zip(text.utf8, text.utf8.dropFirst()).contains { $0 == UInt8(ascii: "-") && $1 == UInt8(ascii: "-") }
  }

  /// The key of a label or annotation: an optional DNS prefix and '/', then a name.
  public static let qualifiedName = NameRule(
    name: "label key",
    requirement: "at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends,"
      + " optionally after a DNS name and '/'"
  ) { text in
    let parts = text.utf8.split(separator: UInt8(ascii: "/"), maxSplits: 1, omittingEmptySubsequences: false)
    guard let last = parts.last, !last.isEmpty, isLabelText(last) else { return false }
    return parts.count == 1 || subdomain.allows(String(Substring(parts[0])))
  }

  /// The value of a label.
  public static let labelValue = NameRule(
    name: "label value",
    requirement: "empty, or at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
  ) { isLabelText($0.utf8) }

  /// A network interface of Linux (`dev_valid_name`).
  public static let interface = NameRule(
    name: "interface name",
    requirement: "1 to 15 characters, not '.' or '..', without '/', ':', '%' and blanks"
  ) { text in
    (1...15).contains(text.utf8.count) && text != "." && text != ".."
      && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && !"/:%".utf8.contains($0) }
  }

  private static func isLabel(_ text: some Collection<UInt8>, limit: Int) -> Bool {
    guard !text.isEmpty, text.count <= limit else { return false }
    var previousIsDash = true
    for byte in text {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"): previousIsDash = false
      case UInt8(ascii: "-"):
        if previousIsDash && byte == text.first { return false }
        previousIsDash = true
      default: return false
      }
    }
    return !previousIsDash
  }

  private static func isLabelText(_ text: some Collection<UInt8>) -> Bool {
    guard text.count <= 63 else { return false }
    var isFirst = true
    var endsWell = true
    for byte in text {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        endsWell = true
      case UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
        if isFirst { return false }
        endsWell = false
      default: return false
      }
      isFirst = false
    }
    return endsWell
  }
}

// Addresses and blocks are coded as their text.

extension IPAddress: Codable {
  public init(from decoder: any Decoder) throws { self = try decodeText(decoder, "an IP address") }
  public func encode(to encoder: any Encoder) throws { try encodeText(self, encoder) }
}

extension IPPrefix: Codable {
  public init(from decoder: any Decoder) throws { self = try decodeText(decoder, "a block such as 10.0.0.0/8") }
  public func encode(to encoder: any Encoder) throws { try encodeText(self, encoder) }
}

private func decodeText<T: LosslessStringConvertible>(_ decoder: any Decoder, _ what: String) throws -> T {
  let container = try decoder.singleValueContainer()
  let text = try container.decode(String.self)
  guard let value = T(text) else {
    throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" is not \(what)")
  }
  return value
}

private func encodeText(_ value: some LosslessStringConvertible, _ encoder: any Encoder) throws {
  var container = encoder.singleValueContainer()
  try container.encode(value.description)
}

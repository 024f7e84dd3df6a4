/// Writes JSON on one line, octet for octet as Foundation's encoder does with sorted keys and plain slashes, in a tenth of
/// its time: a batch of probes is mostly this.
struct JSONLine {
  private var octets: [UInt8] = []

  /// Everything written so far.
  var text: String { String(decoding: octets, as: UTF8.self) }

  /// Writes what is JSON already.
  mutating func raw(_ json: StaticString) {
    for index in 0..<json.utf8CodeUnitCount { octets.append(unsafe json.utf8Start[index]) }
  }

  mutating func write(_ value: Bool) { value ? raw("true") : raw("false") }

  mutating func write(_ value: String?) {
    guard let value else { return raw("null") }
    octets.append(UInt8(ascii: "\""))
    for octet in value.utf8 { write(octet) }
    octets.append(UInt8(ascii: "\""))
  }

  mutating func write(_ list: [String]) {
    write(list) { $0.write($1) }
  }

  mutating func write<Element>(_ list: [Element], _ body: (inout JSONLine, Element) -> Void) {
    octets.append(UInt8(ascii: "["))
    for (position, element) in list.enumerated() {
      if position > 0 { octets.append(UInt8(ascii: ",")) }
      body(&self, element)
    }
    octets.append(UInt8(ascii: "]"))
  }

  private mutating func write(_ octet: UInt8) {
    switch octet {
    case UInt8(ascii: "\""): raw("\\\"")
    case UInt8(ascii: "\\"): raw("\\\\")
    case 0x08: raw("\\b")
    case 0x09: raw("\\t")
    case 0x0a: raw("\\n")
    case 0x0c: raw("\\f")
    case 0x0d: raw("\\r")
    case 0..<0x20:
      raw("\\u00")
      for digit in [octet >> 4, octet & 15] {
        octets.append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10)
      }
    default: octets.append(octet)
    }
  }
}

extension ProbeAnswer {
  /// The answer as one JSON object on one line.
  var line: String {
    var json = JSONLine()
    json.raw("{\"out\":")
    if let out {
      json.raw("{\"nextHop\":")
      json.write(out.nextHop)
      json.raw(",\"port\":")
      json.write(out.port)
      json.raw(",\"tunnel\":")
      json.write(out.tunnel)
      json.raw("}")
    } else {
      json.raw("null")
    }
    json.raw(",\"policy\":{\"egress\":")
    json.write(policy.egress.rawValue)
    json.raw(",\"egressPolicies\":")
    json.write(policy.egressPolicies)
    json.raw(",\"ingress\":")
    json.write(policy.ingress.rawValue)
    json.raw(",\"ingressPolicies\":")
    json.write(policy.ingressPolicies)
    json.raw("},\"reason\":")
    json.write(reason)
    json.raw(",\"service\":{\"endpoints\":")
    json.write(service.endpoints)
    json.raw(",\"masquerade\":")
    json.write(service.masquerade)
    json.raw(",\"name\":")
    json.write(service.name)
    json.raw(",\"verdict\":")
    json.write(service.verdict)
    json.raw("},\"steps\":")
    json.write(steps) { json, step in
      json.raw("{\"detail\":")
      json.write(step.detail)
      json.raw(",\"stage\":")
      json.write(step.stage)
      json.raw("}")
    }
    json.raw(",\"verdict\":")
    json.write(verdict.rawValue)
    json.raw("}")
    return json.text
  }
}

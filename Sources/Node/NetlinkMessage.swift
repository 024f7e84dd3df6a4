/// A request of rtnetlink in the making: the family's header and attributes (rtnetlink(7)). Integers are in native byte
/// order, as the protocol wants, but for addresses.
struct NetlinkMessage {
  let type: UInt16
  let flags: UInt16
  private(set) var payload: [UInt8] = []

  init(_ type: Int, flags: Int32 = 0) {
    self.type = UInt16(truncatingIfNeeded: type)
    self.flags = UInt16(truncatingIfNeeded: flags)
  }

  /// Adds a field of the family's header.
  mutating func put<T: FixedWidthInteger>(_ value: T) {
    for shift in 0..<T.bitWidth / 8 { payload.append(UInt8(truncatingIfNeeded: value >> T(8 * shift))) }
  }

  mutating func put(_ bytes: [UInt8]) { payload += bytes }

  /// Adds an attribute of these octets.
  mutating func attribute(_ type: Int, _ bytes: [UInt8]) {
    put(UInt16(bytes.count + 4))
    put(UInt16(truncatingIfNeeded: type))
    payload += bytes
    while payload.count % 4 != 0 { payload.append(0) }
  }

  mutating func attribute<T: FixedWidthInteger>(_ type: Int, _ value: T) {
    attribute(type, (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> T(8 * $0)) })
  }

  /// Adds a text with its end mark.
  mutating func attribute(_ type: Int, _ text: String) { attribute(type, Array(text.utf8) + [0]) }

  /// Adds an attribute that holds others.
  mutating func nested(_ type: Int, _ body: (inout NetlinkMessage) -> Void) {
    let start = payload.count
    put(UInt16(0))
    put(UInt16(truncatingIfNeeded: type) | 0x8000)
    body(&self)
    let length = UInt16(truncatingIfNeeded: payload.count - start)
    payload[start] = UInt8(length & 0xff)
    payload[start + 1] = UInt8(length >> 8)
  }
}

/// A view of a received message or of an attribute's value. Reading beyond its end gives zeros: the kernel's structures
/// only ever grow, so a field that is missing is one that an older kernel does not have.
struct NetlinkReader {
  private let bytes: ArraySlice<UInt8>

  init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes }

  var count: Int { bytes.count }
  var octets: [UInt8] { Array(bytes) }

  private func read<T: FixedWidthInteger>(_ offset: Int, as: T.Type) -> T {
    let size = T.bitWidth / 8
    guard offset >= 0, offset + size <= bytes.count else { return 0 }
    let start = bytes.startIndex + offset
    return (0..<size).reduce(0) { $0 | T(truncatingIfNeeded: bytes[start + $1]) << T(8 * $1) }
  }

  func u8(_ offset: Int = 0) -> UInt8 { read(offset, as: UInt8.self) }
  func u16(_ offset: Int = 0) -> UInt16 { read(offset, as: UInt16.self) }
  func u32(_ offset: Int = 0) -> UInt32 { read(offset, as: UInt32.self) }
  func i32(_ offset: Int = 0) -> Int32 { read(offset, as: Int32.self) }
  func u64(_ offset: Int = 0) -> UInt64 { read(offset, as: UInt64.self) }

  /// The text up to its end mark.
  var text: String { String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }

  /// What follows the first `count` octets.
  func dropping(_ count: Int) -> NetlinkReader { NetlinkReader(bytes.dropFirst(count)) }

  /// The first `count` octets.
  func prefix(_ count: Int) -> NetlinkReader { NetlinkReader(bytes.prefix(count)) }

  /// The attributes from `offset` on, by type; of several of one type the last. One that runs over the end, and all
  /// behind it, are left out.
  func attributes(from offset: Int = 0) -> [Int: NetlinkReader] {
    var result: [Int: NetlinkReader] = [:]
    var rest = dropping(offset)
    while rest.count >= 4 {
      let length = Int(rest.u16())
      guard length >= 4, length <= rest.count else { break }
      result[Int(rest.u16(2) & 0x3fff)] = rest.prefix(length).dropping(4)
      rest = rest.dropping((length + 3) & ~3)
    }
    return result
  }
}

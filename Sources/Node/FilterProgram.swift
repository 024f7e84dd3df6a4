import CLinux

/// Classic BPF in the making (Linux, Documentation/networking/filter.rst): instructions with jumps to labels.
///
/// Conditional jumps of classic BPF reach 255 instructions; here they only ever step over the unconditional jump behind
/// them, which reaches everywhere.
struct FilterProgram {
  /// A place to jump to, which may come later.
  struct Label { fileprivate let number: Int }

  private(set) var instructions: [sock_filter] = []
  private var places: [Int?] = []
  private var jumps: [(instruction: Int, label: Int)] = []

  /// Where packet data is loaded from.
  enum Source {
    /// An offset from the first octet that the program sees: of the Ethernet header, but where sockets share what comes
    /// (`FlowSpread`).
    case absolute(Int)
    /// An offset from there plus the X register.
    case indexed(Int)
    /// What the kernel knows of the packet (SKF_AD_…).
    case ancillary(Int)
    /// The packet's length.
    case length
  }

  enum Width: UInt16 {
    case u32 = 0x00
    case u16 = 0x08
    case u8 = 0x10
  }

  mutating func label() -> Label {
    places.append(nil)
    return Label(number: places.count - 1)
  }

  /// Puts `label` before the next instruction.
  mutating func place(_ label: Label) { places[label.number] = instructions.count }

  private mutating func emit(_ code: UInt16, _ k: UInt32 = 0, jt: UInt8 = 0, jf: UInt8 = 0) {
    instructions.append(sock_filter(code: code, jt: jt, jf: jf, k: k))
  }

  /// A = the value at `source`. A packet that is too short for it ends the program with 0.
  mutating func load(_ width: Width, _ source: Source) {
    switch source {
    case .absolute(let offset): emit(0x20 | width.rawValue, UInt32(offset))
    case .indexed(let offset): emit(0x40 | width.rawValue, UInt32(offset))
    case .ancillary(let number): emit(0x20, UInt32(bitPattern: Int32(-0x1000 + number)))
    case .length: emit(0x80)
    }
  }

  /// X = the length of the IPv4 header at `offset`.
  mutating func loadIPv4HeaderLength(at offset: Int) { emit(0xb1, UInt32(offset)) }
  /// A = A & k
  mutating func and(_ k: UInt32) { emit(0x54, k) }
  /// A = A + k
  mutating func add(_ k: UInt32) { emit(0x04, k) }
  /// A = A * k
  mutating func multiply(_ k: UInt32) { emit(0x24, k) }
  /// A = A >> count
  mutating func shiftRight(_ count: UInt32) { emit(0x74, count) }
  /// A = A + X
  mutating func addX() { emit(0x0c) }
  /// A = A ^ X
  mutating func xorX() { emit(0xac) }
  /// A = k
  mutating func set(_ k: UInt32) { emit(0x00, k) }
  /// X = A
  mutating func moveToX() { emit(0x07) }
  /// A = X
  mutating func takeX() { emit(0x87) }
  /// X = k
  mutating func setX(_ k: UInt32) { emit(0x01, k) }
  /// memory[slot] = A
  mutating func store(_ slot: UInt32) { emit(0x02, slot) }
  /// A = memory[slot]
  mutating func recall(_ slot: UInt32) { emit(0x60, slot) }
  /// X = memory[slot]
  mutating func recallToX(_ slot: UInt32) { emit(0x61, slot) }

  mutating func jump(_ label: Label) {
    jumps.append((instructions.count, label.number))
    emit(0x05)
  }

  /// Goes to `label` where A equals k.
  mutating func jump(_ label: Label, ifEqual k: UInt32) {
    emit(0x15, k, jt: 0, jf: 1)
    jump(label)
  }

  /// Goes to `label` where A differs from k.
  mutating func jump(_ label: Label, unlessEqual k: UInt32) {
    emit(0x15, k, jt: 1, jf: 0)
    jump(label)
  }

  /// Goes to `label` where A is less than k.
  mutating func jump(_ label: Label, ifLess k: UInt32) {
    emit(0x35, k, jt: 1, jf: 0)
    jump(label)
  }

  /// Goes to `label` where A and k have a bit in common.
  mutating func jump(_ label: Label, ifAny k: UInt32) {
    emit(0x45, k, jt: 0, jf: 1)
    jump(label)
  }

  mutating func end(with value: UInt32) { emit(0x06, value) }
  /// Ends with A.
  mutating func end() { emit(0x16) }

  /// The program with all jumps resolved. Every label must have its place, behind the jumps to it.
  func resolved() -> [sock_filter] {
    var result = instructions
    for (instruction, label) in jumps {
      guard let place = places[label], place > instruction else { preconditionFailure("classic BPF jumps forward") }
      result[instruction].k = UInt32(place - instruction - 1)
    }
    return result
  }
}

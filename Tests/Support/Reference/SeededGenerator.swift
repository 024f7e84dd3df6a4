/// Random numbers that a seed brings back: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
public struct SeededGenerator: RandomNumberGenerator, Sendable {
  private var state: UInt64

  public init(seed: UInt64) { state = seed }

  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  /// True in `percent` of 100 cases.
  public mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &self) < percent }

  /// One of the elements, of which there must be some.
  public mutating func pick<C: Collection>(_ elements: C) -> C.Element { elements.randomElement(using: &self)! }

  /// Some of the elements, in their order.
  public mutating func some<C: Collection>(_ elements: C, percent: Int = 50) -> [C.Element] {
    var result: [C.Element] = []
    for element in elements where chance(percent) { result.append(element) }
    return result
  }
}

/// The permutation tables of Maglev (NSDI 2016, section 3.4).
enum Maglev {
  /// A prime of at least a hundred times the number of endpoints, so that shares differ by at most a hundredth. It stays
  /// the same while the number of endpoints is between two powers of two, because another size sends every connection
  /// elsewhere. Where there are many endpoints it is larger still: at a hundred places each, the loss of one of a
  /// hundred endpoints would move one and a half hundredths of the others' connections, at five hundred it is half of one.
  static func size(for endpoints: Int) -> Int {
    let rounded = max(endpoints, 1).nextPowerOfTwo
    var candidate = rounded * (rounded > 8 && rounded <= 1024 ? 512 : 128) | 1
    while !isPrime(candidate) { candidate += 2 }
    return candidate
  }

  private static func isPrime(_ number: Int) -> Bool {
    if number < 4 { return number > 1 }
    if number % 2 == 0 { return false }
    var divisor = 3
    while divisor * divisor <= number {
      if number % divisor == 0 { return false }
      divisor += 2
    }
    return true
  }

  /// An endpoint's own order of the places: it begins at `place` and goes on in steps of `skip`.
  private struct Walk {
    var place: Int
    var skip: Int

    init(_ endpoint: ServicePort.Endpoint, size: Int) {
      let (a, b): (UInt64, UInt64) =
        switch endpoint.address {
        case .v4(let v4): (0, UInt64(v4.rawValue))
        case .v6(let v6): (v6.high, v6.low)
        }
      place = Int(mix(mix(a, b), UInt64(endpoint.port) | 1 << 32) % UInt64(size))
      skip = Int(mix(mix(b, a), UInt64(endpoint.port) | 2 << 32) % UInt64(size - 1)) + 1
    }

    mutating func advance(_ size: Int) {
      place += skip
      if place >= size { place -= size }
    }
  }

  /// For each place the position of its endpoint in the list; empty where there is no endpoint. The result depends on the
  /// endpoints alone, not on their order, so that nodes agree. `size` is prime: in a table of another size a walk may come
  /// round to where it began without having met a free place, and never end.
  static func table(_ endpoints: [ServicePort.Endpoint], size: Int) -> [Int32] {
    guard !endpoints.isEmpty else { return [] }
    precondition(isPrime(size), "a Maglev table of \(size) places")
    let order = endpoints.indices.sorted { endpoints[$0] < endpoints[$1] }
    var walks = order.map { Walk(endpoints[$0], size: size) }
    var table = [Int32](repeating: -1, count: size)
    var filled = 0
    while true {
      for turn in walks.indices {
        while table[walks[turn].place] >= 0 { walks[turn].advance(size) }
        table[walks[turn].place] = Int32(truncatingIfNeeded: order[turn])
        filled += 1
        if filled == size { return table }
      }
    }
  }
}

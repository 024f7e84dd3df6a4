/// The permutation tables of Maglev (NSDI 2016, section 3.4).
enum Maglev {
  /// A prime of at least a hundred times the number of endpoints, so that shares differ by at most a hundredth.
  static func size(for endpoints: Int) -> Int {
    var candidate = max(endpoints, 1) * 100 | 1
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

  /// For each entry the position of its endpoint; -1 everywhere where there is none. The result depends on the endpoints
  /// alone, not on their order, so that nodes agree.
  static func table(_ endpoints: [ServicePort.Endpoint], size: Int) -> [Int] {
    guard !endpoints.isEmpty else { return Array(repeating: -1, count: size) }
    let order = endpoints.indices.sorted { endpoints[$0] < endpoints[$1] }
    var steps: [(offset: Int, skip: Int, next: Int)] = order.map { position in
      let endpoint = endpoints[position]
      let (a, b): (UInt64, UInt64) =
        switch endpoint.address {
        case .v4(let v4): (0, UInt64(v4.rawValue))
        case .v6(let v6): (v6.high, v6.low)
        }
      let first = mix(mix(a, b), UInt64(endpoint.port) | 1 << 32)
      let second = mix(mix(b, a), UInt64(endpoint.port) | 2 << 32)
      return (Int(first % UInt64(size)), Int(second % UInt64(size - 1)) + 1, 0)
    }
    var table = [Int](repeating: -1, count: size)
    var filled = 0
    while true {
      for turn in steps.indices {
        var entry: Int
        repeat {
          entry = (steps[turn].offset + steps[turn].next * steps[turn].skip) % size
          steps[turn].next += 1
        } while table[entry] >= 0
        table[entry] = order[turn]
        filled += 1
        if filled == size { return table }
      }
    }
  }
}

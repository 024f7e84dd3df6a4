/// Numbers for keys, from 1 on, each as long as somebody uses it.
struct Numbering<Key: Hashable> {
  private var numbers: [Key: UInt32] = [:]
  private(set) var keys: [UInt32: Key] = [:]
  private var users: [UInt32: Int] = [:]
  private var free: [UInt32] = []
  private var next: UInt32 = 1

  /// The number of a key; nil where it has none.
  subscript(key: Key) -> UInt32? { numbers[key] }

  /// The number of a key, with one more user.
  mutating func take(_ key: Key) -> (number: UInt32, isNew: Bool) {
    if let known = numbers[key] {
      users[known, default: 0] += 1
      return (known, false)
    }
    let number = free.popLast() ?? next
    if number == next { next += 1 }
    numbers[key] = number
    keys[number] = key
    users[number] = 1
    return (number, true)
  }

  /// One user less. Whether it was the last: the key keeps its number until it is forgotten.
  mutating func release(_ number: UInt32) -> Bool {
    guard let count = users[number] else { return false }
    users[number] = count > 1 ? count - 1 : nil
    return count == 1
  }

  func isUsed(_ number: UInt32) -> Bool { users[number] != nil }

  /// Frees the number of a key that nobody uses.
  mutating func forget(_ number: UInt32) {
    guard users[number] == nil, let key = keys.removeValue(forKey: number) else { return }
    numbers[key] = nil
    free.append(number)
  }
}

import CEBPF
import Glibc

/// A map of the kernel's with keys and values of these types.
struct BPFMap<Key: BitwiseCopyable, Value: BitwiseCopyable> {
  let name: String
  let descriptor: Descriptor
  /// The most entries that it may have.
  let limit: Int

  /// Fails where keys or values have other sizes: then a program of another version has made it.
  init(_ name: String, _ descriptor: Descriptor) throws(EBPFError) {
    self.name = name
    self.descriptor = descriptor
    var key: UInt32 = 0
    var value: UInt32 = 0
    var entries: UInt32 = 0
    try check(unsafe kalsae_bpf_map_sizes(descriptor.number, &key, &value, &entries), "map \(name)")
    limit = Int(entries)
    guard key == MemoryLayout<Key>.size, value == MemoryLayout<Value>.size || value == MemoryLayout<Value>.stride else {
      throw EBPFError(
        "map \(name) has keys of \(key) and values of \(value) octets, not \(MemoryLayout<Key>.size) and \(MemoryLayout<Value>.size)",
        hint: "another version of kalsae made it: kalsae ebpf unload, then load again")
    }
  }

  /// Writes entries in batches.
  func write(_ keys: [Key], _ values: [Value]) throws(EBPFError) {
    let chunk = 1 << 15
    var first = 0
    while first < keys.count {
      let count = min(chunk, keys.count - first)
      let result = unsafe keys.withUnsafeBytes { keyBytes in
        unsafe values.withUnsafeBytes { valueBytes in
          unsafe kalsae_bpf_update_batch(
            descriptor.number, keyBytes.baseAddress! + first * MemoryLayout<Key>.stride,
            valueBytes.baseAddress! + first * MemoryLayout<Value>.stride, UInt32(count),
            UInt32(MemoryLayout<Key>.stride), UInt32(MemoryLayout<Value>.stride))
        }
      }
      try check(result, "cannot write \(count) entries of map \(name)")
      first += count
    }
  }

  func remove(_ keys: [Key]) throws(EBPFError) {
    guard !keys.isEmpty else { return }
    let result = unsafe keys.withUnsafeBytes {
      unsafe kalsae_bpf_delete_batch(
        descriptor.number, $0.baseAddress!, UInt32(keys.count), UInt32(MemoryLayout<Key>.stride))
    }
    try check(result, "cannot remove \(keys.count) entries of map \(name)")
  }

  func value(_ key: Key, _ initial: Value) -> Value? {
    var key = key
    var value = initial
    return unsafe kalsae_bpf_lookup(descriptor.number, &key, &value) == 0 ? value : nil
  }

  /// The number of entries; in a map that changes meanwhile about that.
  func keyCount(_ key: Key) -> Int {
    var current = key
    var count = 0
    while count < limit {
      var next = key
      let result =
        count == 0
        ? unsafe kalsae_bpf_next_key(descriptor.number, nil, &next)
        : unsafe kalsae_bpf_next_key(descriptor.number, &current, &next)
      if result != 0 { break }
      current = next
      count += 1
    }
    return count
  }

  /// All entries; in a map that changes meanwhile those that were met.
  func entries(_ key: Key, _ value: Value, limit: Int = 1 << 22) -> [(key: Key, value: Value)] {
    var list: [(key: Key, value: Value)] = []
    var current = key
    var next = key
    var isFirst = true
    while list.count < limit {
      let result =
        isFirst
        ? unsafe kalsae_bpf_next_key(descriptor.number, nil, &next)
        : unsafe kalsae_bpf_next_key(descriptor.number, &current, &next)
      if result != 0 { break }
      isFirst = false
      current = next
      if let value = self.value(current, value) { list.append((current, value)) }
    }
    return list
  }
}

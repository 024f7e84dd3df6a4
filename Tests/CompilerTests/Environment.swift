import Glibc

enum Environment {
  /// Where random clusters start from: given, or another each time.
  static var seed: UInt64 {
    if let text = unsafe getenv("KALSAE_SEED"), let seed = UInt64(unsafe String(cString: text)) { return seed }
    return UInt64.random(in: 0..<1_000_000_000)
  }
}

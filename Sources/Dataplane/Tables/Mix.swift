/// Mixes two words into one so that every bit of the result depends on every bit of both: a 64 × 64 bit product folded.
@inline(__always)
func mix(_ a: UInt64, _ b: UInt64) -> UInt64 {
  let product = (a ^ 0x9e37_79b9_7f4a_7c15).multipliedFullWidth(by: b ^ 0xe703_7ed1_a0b4_28db)
  return product.high ^ product.low
}

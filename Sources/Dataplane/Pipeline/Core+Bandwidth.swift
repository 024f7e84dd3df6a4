extension Core {
  /// Takes out of the batch what is more than its port may receive. What is too much is dropped and not held: whoever
  /// holds it would hold up all others.
  @inline(never)
  mutating func limit(_ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let number = Int(ingress.rawValue)
    let rate = tables.ports.limits[number].receive
    guard rate.isLimit else { return }
    var kept = 0
    for index in 0..<batch.count {
      if paces[number].receives(batch[index].wireLength, at: now, rate) {
        batch[kept] = batch[index]
        kept += 1
      } else {
        drops.add(.bandwidth, at: ingress, frame: batch[index], timestamp: now)
      }
    }
    batch.truncate(to: kept)
  }
}

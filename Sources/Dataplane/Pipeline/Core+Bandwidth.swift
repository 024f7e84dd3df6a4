extension Core {
  /// Takes out of the batch what is more than its port may receive. What is too much is dropped and not held: whoever
  /// holds it would hold up all others.
  @inline(never)
  mutating func limit(_ batch: inout FrameBatch, _ tables: borrowing Tables) {
    let number = Int(ingress.rawValue)
    let rate = tables.ports.limits[number].receive
    var kept = 0
    for index in 0..<batch.count {
      let frame = batch[index]
      var passes = frame.resolvesAddresses
      if !passes { passes = paces[number].receives(frame.wireLength, at: now, rate) }
      if passes {
        batch[kept] = frame
        kept += 1
      } else {
        drops.add(.bandwidth, at: ingress, frame: frame, timestamp: now)
      }
    }
    batch.truncate(to: kept)
  }
}

extension Frame {
  /// Whether it is ARP or neighbour discovery (RFC 4861): without them a port at its limit would soon carry nothing at all.
  var resolvesAddresses: Bool {
    let octets = octets
    guard octets.count >= EthernetHeader.length else { return false }
    if octets[u16: 12] == 0x0806 { return true }
    let message = EthernetHeader.length + IPv6Header.length
    return octets[u16: 12] == 0x86dd && octets.count > message && octets[EthernetHeader.length + 6] == 58
      && (133...137).contains(octets[message])
  }
}

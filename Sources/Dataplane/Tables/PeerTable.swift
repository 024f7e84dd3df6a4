import Addresses
import CDataplane

/// The IPv4 addresses that tunnel packets may come from (NODE-4), which peers these are, and what they send in: all that the
/// fast path asks about where such a packet came from, in one word. Linear probing from the first word of the pair that the
/// address's hash says; at most a quarter full, so that the pair nearly always has the answer, and shares a cache line.
struct PeerTable: ~Copyable {
  /// From the lowest bit on: the address as it lies in a packet (32), the peer (16), a bit for each encapsulation (8), and
  /// whether the word is in use (bit 63).
  private var words: Memory<UInt64>
  private(set) var count = 0

  /// A table with room for `capacity` addresses before it grows.
  init(capacity: Int = 64) { words = Memory(count: max(64, (capacity * 4).nextPowerOfTwo)) }

  private var mask: Int { words.count - 1 }

  /// For C: the words, how many they are, and what hashes are shifted by.
  var view: (words: MemoryView<UInt64>, shift: UInt32) {
    (words.view, UInt32(65 - words.count.trailingZeroBitCount))
  }

  private static func source(_ address: IPv4Address) -> UInt32 { address.rawValue.bigEndian }
  private static func source(of word: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: word) }

  private func home(_ source: UInt32) -> Int { Int(kalsae_peer_place(source, view.shift)) }

  private func place(_ source: UInt32) -> Int {
    var position = home(source)
    while words[position] != 0, PeerTable.source(of: words[position]) != source { position = (position + 1) & mask }
    return position
  }

  /// Accepts what `address` sends in these encapsulations, a bit for each.
  mutating func set(_ address: IPv4Address, peer: UInt16, encapsulations: UInt32) {
    if (count + 1) * 4 > words.count { grow() }
    let source = PeerTable.source(address)
    let position = place(source)
    if words[position] == 0 { count += 1 }
    words[position] =
      UInt64(source) | UInt64(peer) << 32 | UInt64(UInt8(truncatingIfNeeded: encapsulations)) << 48 | 1 << 63
  }

  /// Accepts nothing more from `address`. What stood behind it in its run moves up.
  mutating func remove(_ address: IPv4Address) {
    var hole = place(PeerTable.source(address))
    guard words[hole] != 0 else { return }
    count -= 1
    var position = hole
    while true {
      position = (position + 1) & mask
      let word = words[position]
      if word == 0 { break }
      if (position - home(PeerTable.source(of: word))) & mask >= (position - hole) & mask {
        words[hole] = word
        hole = position
      }
    }
    words[hole] = 0
  }

  private mutating func grow() {
    let old = exchange(&words, with: Memory(count: words.count * 2))
    for position in 0..<old.count where old[position] != 0 {
      words[place(PeerTable.source(of: old[position]))] = old[position]
    }
  }
}

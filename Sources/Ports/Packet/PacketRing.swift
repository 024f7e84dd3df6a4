import CLinux
import Dataplane
import Glibc

/// The memory of a TPACKET_V2 receive ring, shared with the kernel. Slots are filled and returned in order.
///
/// V2, not V3: V2 wakes for each frame, V3 delivers a lone frame only at its block time-out.
@safe
struct PacketRing: ~Copyable {
  /// Octets of a slot that the longest super-frame (65,549 octets) fits with headroom; 15 of them fill a block.
  static var largestSlot: Int { 69_904 }
  static var blockSize: Int { 1 << 20 }

  /// Octets of a slot for frames of a device with this MTU: what the kernel puts before a frame, its link-layer header
  /// with two tags, and room for an answer that is longer than its question.
  static func slotSize(mtu: Int) -> Int { min(largestSlot, (mtu + 210 + 22 + 64 + 127) & ~127) }
  /// Where a slot's buffer begins: behind the kernel's header, so that the headroom is ours to write.
  static var bufferOffset: Int { 64 }
  /// The room that the kernel leaves before a frame. With its own header (52 octets, aligned) and the vnet header the
  /// network-layer header then begins on a 32-octet boundary, and the headroom is 146 octets.
  static var reserve: Int { 134 }

  private let base: UnsafeMutableRawPointer
  private let socket: Int32
  let blocks: Int
  let slotSize: Int
  private let slotsPerBlock: Int
  let slots: Int
  /// The next slot to look at.
  private(set) var next = 0
  /// The first slot that was handed out and not returned.
  private var first = 0
  private var outstanding = 0

  /// The ring that is mapped at `base`, and its socket, which goes with it. `next`: the slot to begin at, where another
  /// process has used the ring before.
  init(unsafe base: UnsafeMutableRawPointer, socket: Int32, blocks: Int, slotSize: Int, next: Int = 0) {
    self.next = next
    self.socket = socket
    first = next
    unsafe self.base = base
    self.blocks = blocks
    self.slotSize = slotSize
    slotsPerBlock = PacketRing.blockSize / slotSize
    slots = blocks * slotsPerBlock
  }

  deinit { unsafe kalsae_ring_close(socket, base, UInt(blocks * PacketRing.blockSize)) }

  @inline(__always)
  private func address(_ slot: Int) -> UnsafeMutableRawPointer {
    let (block, position) = slot.quotientAndRemainder(dividingBy: slotsPerBlock)
    return unsafe base + (block * PacketRing.blockSize + position * slotSize)
  }

  /// What a look at the next slot finds.
  enum Look {
    /// Nothing has come.
    case empty
    case frame(Frame)
    /// A frame that is too long for the slot waits in the socket's queue; the slot holds what is known of it.
    case queued(kalsae_ring_frame)
    /// A frame that is too long for the slot, and the socket's queue had no room for it.
    case lost
    /// Nothing usable.
    case unusable
  }

  /// Looks at the next slot and takes it if it is filled. `canCopy`: whether there is room for a frame from the socket's
  /// queue; without, such a slot stays for the next time.
  @inline(__always)
  mutating func take(canCopy: Bool) -> Look {
    guard outstanding < slots else { return .empty }
    let slot = unsafe address(next)
    guard unsafe kalsae_ring_status(slot) & Status.user != 0 else { return .empty }
    var header = kalsae_ring_frame()
    unsafe kalsae_ring_read(slot, &header)
    let isQueued = header.status & Status.copied != 0
    if isQueued, !canCopy { return .empty }
    let index = next
    next = next + 1 == slots ? 0 : next + 1
    outstanding += 1
    if isQueued { return .queued(header) }

    let offset = Int(header.mac_offset)
    let length = Int(header.captured)
    guard header.length == header.captured else { return .lost }
    guard offset >= PacketRing.bufferOffset + Headroom.minimum, length >= 14, offset + length <= slotSize else {
      return .unusable
    }
    var frame = unsafe Frame(
      unsafe: slot + PacketRing.bufferOffset, capacity: slotSize - PacketRing.bufferOffset,
      start: offset - PacketRing.bufferOffset, length: length, slot: index)
    // The vnet header that AF_PACKET writes has ten octets and lies right before the frame.
    var vnet = VirtioHeader()
    unsafe withUnsafeMutableBytes(of: &vnet) {
      unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: slot + (offset - 10), count: 10))
    }
    guard vnet.describe(&frame) else { return .unusable }
    frame.note(header)
    return .frame(frame)
  }

  /// Returns every slot that was taken to the kernel.
  @inline(__always)
  mutating func returnAll() {
    while outstanding > 0 {
      unsafe kalsae_ring_return(address(first))
      first = first + 1 == slots ? 0 : first + 1
      outstanding -= 1
    }
  }
}

/// Bits of `tp_status` (TP_STATUS_… of linux/if_packet.h).
private enum Status {
  static var user: UInt32 { 1 }
  static var copied: UInt32 { 1 << 1 }
  static var tagValid: UInt32 { 1 << 4 }
  static var tagTypeValid: UInt32 { 1 << 6 }
  static var checksumValid: UInt32 { 1 << 7 }
}

extension Frame {
  /// Notes what the ring's header says beyond the vnet header.
  @inline(__always)
  mutating func note(_ header: kalsae_ring_frame) {
    timestamp = header.timestamp
    if header.status & Status.checksumValid != 0 { flags.insert(.checksumVerified) }
    if header.status & Status.tagValid != 0 {
      let known = header.status & Status.tagTypeValid != 0
      restoreTag(tpid: known ? header.vlan_tpid : 0x8100, tci: header.vlan_tci)
    }
  }

  /// Puts the VLAN tag that the kernel stripped back where it was on the wire (TUN-10). The frame then is as it came,
  /// so `vlanStripped` stays clear; the tag is noted in `vlanTPID` and `vlanTCI` as well.
  mutating func restoreTag(tpid: UInt16, tci: UInt16) {
    guard headroom >= 4, length >= 14 else { return }
    push(4)
    let octets = octets
    octets[u64: 0] = octets[u64: 4]
    octets[u32: 8] = octets[u32: 12]
    octets[u16: 12] = tpid
    octets[u16: 14] = tci
    vlanTPID = tpid
    vlanTCI = tci
  }
}

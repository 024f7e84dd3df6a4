import CLinux
import Dataplane
import Glibc

/// The memory of a TPACKET_V2 receive ring, shared with the kernel. Slots are filled and returned in order.
///
/// V2, not V3: V2 wakes for each frame, V3 delivers a lone frame only at its block time-out.
@safe
struct PacketRing: ~Copyable {
  /// Octets of a slot: 15 of them fill a block of 1 MiB, and the longest super-frame (65,549 octets) fits with headroom.
  static var slotSize: Int { 69_904 }
  static var blockSize: Int { 1 << 20 }
  static var slotsPerBlock: Int { 15 }
  /// Where a slot's buffer begins: behind the kernel's header, so that the headroom is ours to write.
  static var bufferOffset: Int { 64 }
  /// The room that the kernel leaves before a frame. With its own header (52 octets, aligned) and the vnet header the
  /// network-layer header then begins on a 32-octet boundary, and the headroom is 146 octets.
  static var reserve: Int { 134 }

  private let base: UnsafeMutableRawPointer
  private let blocks: Int
  let slots: Int
  /// The next slot to look at.
  private var next = 0
  /// The first slot that was handed out and not returned.
  private var first = 0
  private var outstanding = 0

  init(unsafe base: UnsafeMutableRawPointer, blocks: Int) {
    unsafe self.base = base
    self.blocks = blocks
    slots = blocks * PacketRing.slotsPerBlock
  }

  deinit { unsafe munmap(base, blocks * PacketRing.blockSize) }

  @inline(__always)
  private func address(_ slot: Int) -> UnsafeMutableRawPointer {
    let (block, position) = slot.quotientAndRemainder(dividingBy: PacketRing.slotsPerBlock)
    return unsafe base + (block * PacketRing.blockSize + position * PacketRing.slotSize)
  }

  /// Takes the next filled slot, if there is one. `frame` is nil where the slot holds nothing usable.
  @inline(__always)
  mutating func take() -> (filled: Bool, frame: Frame?) {
    guard outstanding < slots else { return (false, nil) }
    let slot = unsafe address(next)
    guard unsafe kalsae_ring_status(slot) & Status.user != 0 else { return (false, nil) }
    var header = kalsae_ring_frame()
    unsafe kalsae_ring_read(slot, &header)
    let index = next
    next = next + 1 == slots ? 0 : next + 1
    outstanding += 1

    let offset = Int(header.mac_offset)
    let length = Int(header.captured)
    guard header.length == header.captured, offset >= PacketRing.bufferOffset + Headroom.minimum, length >= 14,
      offset + length <= PacketRing.slotSize
    else { return (true, nil) }
    var frame = unsafe Frame(
      unsafe: slot + PacketRing.bufferOffset, capacity: PacketRing.slotSize - PacketRing.bufferOffset,
      start: offset - PacketRing.bufferOffset, length: length, slot: index)
    frame.timestamp = header.timestamp
    // The vnet header that AF_PACKET writes has ten octets and lies right before the frame.
    var vnet = VirtioHeader()
    unsafe withUnsafeMutableBytes(of: &vnet) {
      unsafe $0.copyMemory(from: UnsafeRawBufferPointer(start: slot + (offset - 10), count: 10))
    }
    guard vnet.describe(&frame) else { return (true, nil) }
    if header.status & Status.checksumValid != 0 { frame.flags.insert(.checksumVerified) }
    if header.status & Status.tagValid != 0 {
      let known = header.status & Status.tagTypeValid != 0
      frame.restoreTag(tpid: known ? header.vlan_tpid : 0x8100, tci: header.vlan_tci)
    }
    return (true, frame)
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
  static var tagValid: UInt32 { 1 << 4 }
  static var tagTypeValid: UInt32 { 1 << 6 }
  static var checksumValid: UInt32 { 1 << 7 }
}

extension Frame {
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

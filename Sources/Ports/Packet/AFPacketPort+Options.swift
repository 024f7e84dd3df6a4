import CLinux

extension AFPacketPort.Options {
  /// The octets of a slot and the blocks of the ring for a device of this MTU.
  func ring(mtu: Int) -> (slotSize: Int, blocks: Int) {
    let slotSize = if case .ring = superFrames { PacketRing.largestSlot } else { PacketRing.slotSize(mtu: mtu) }
    let perBlock = PacketRing.blockSize / slotSize
    return (slotSize, (slots + perBlock - 1) / perBlock)
  }

  /// Runs `body` on the options as the C side takes them.
  func withRaw<R>(
    interface: Int32 = 0, slotSize: Int = 0, blocks: Int = 0, _ body: (inout kalsae_packet_options) -> R
  ) -> R {
    unsafe filter.withUnsafeBufferPointer { filter in
      var raw = unsafe kalsae_packet_options()
      unsafe raw.ifindex = interface
      unsafe raw.slot_size = UInt32(slotSize)
      unsafe raw.block_size = UInt32(PacketRing.blockSize)
      unsafe raw.blocks = UInt32(blocks)
      unsafe raw.reserve = UInt32(PacketRing.reserve)
      unsafe raw.send_buffer = UInt32(clamping: sendBuffer)
      if case .queue(let octets) = superFrames, slotSize < PacketRing.largestSlot {
        unsafe raw.receive_buffer = UInt32(clamping: min(max(octets, 1 << 16), Int(Int32.max) / 2))
      }
      unsafe raw.promiscuous = promiscuous ? 1 : 0
      unsafe raw.qdisc_bypass = bypassQueueing ? 1 : 0
      unsafe raw.filter = filter.baseAddress
      unsafe raw.filter_length = UInt16(filter.count)
      return unsafe body(&raw)
    }
  }
}

public import CLinux

/// Which of several sockets gets a packet, so that those of a flow that come the same way stay in order: a classic BPF
/// program for PACKET_FANOUT_CBPF (packet(7)) whose result, a hash of 16 bits, the kernel takes modulo their number. What it
/// sees begins at the network-layer header.
///
/// The hash is of addresses and ports, of fragments of addresses alone. All packets of an IPIP or GRE tunnel have the same
/// outer ones (RFC 2003, RFC 2784): there it is the inner packet's as well. VXLAN and Geneve have a hash of the inner packet
/// as their source port (RFC 7348, section 5; RFC 8926, section 3.3). What is no IP packet, or cut short, is the first
/// socket's.
public enum FlowSpread {
  /// Places in the program's memory: the hash so far, where the header begins that is looked at, and of GRE its flags.
  private static let hash: UInt32 = 0
  private static let base: UInt32 = 1
  private static let flags: UInt32 = 2

  private static let transports: [UInt32] = [6, 17, 132]

  /// A filter for a socket that is to get nothing yet.
  public static let nothing: [sock_filter] = {
    var p = FilterProgram()
    p.end(with: 0)
    return p.resolved()
  }()

  public static let program: [sock_filter] = {
    var p = FilterProgram()
    let (outer6, gre, inner4, inner6) = (p.label(), p.label(), p.label(), p.label())
    let (ports, ignored, done) = (p.label(), p.label(), p.label())

    /// Mixes A into the hash.
    func mix() {
      p.recallToX(hash)
      p.xorX()
      p.multiply(0x9e37_79b1)
      p.store(hash)
    }
    /// Mixes words of the header at `base` into the hash.
    func mixWords(_ offsets: Int...) {
      for offset in offsets {
        p.recallToX(base)
        p.load(.u32, .indexed(offset))
        mix()
      }
      p.recallToX(base)
    }
    /// Goes to `header` where the protocol in A has ports.
    func jumpToTransport(_ header: FilterProgram.Label) {
      for number in transports { p.jump(header, ifEqual: number) }
    }
    /// Goes to what is behind an outer header, whose protocol is in A.
    func jumpBehindOuter() {
      jumpToTransport(ports)
      p.jump(inner4, ifEqual: 4)
      p.jump(inner6, ifEqual: 41)
      p.jump(gre, ifEqual: 47)
      p.jump(done)
    }

    p.set(0)
    p.store(hash)
    p.store(base)
    p.load(.u8, .absolute(0))
    p.and(0xf0)
    p.jump(outer6, ifEqual: 0x60)
    p.jump(ignored, unlessEqual: 0x40)
    mixWords(12, 16)
    p.load(.u16, .absolute(6))
    p.jump(done, ifAny: 0x3fff)
    p.loadIPv4HeaderLength(at: 0)
    p.takeX()
    p.store(base)
    p.load(.u8, .absolute(9))
    jumpBehindOuter()

    p.place(outer6)
    mixWords(20, 36)
    p.set(40)
    p.store(base)
    p.moveToX()
    p.load(.u8, .absolute(6))
    jumpBehindOuter()

    // RFC 2784, section 2.1, and RFC 2890: checksum, key and sequence number are there where their flag is.
    p.place(gre)
    p.load(.u16, .indexed(0))
    p.store(flags)
    p.takeX()
    p.add(4)
    p.store(base)
    for flag: UInt32 in [0x8000, 0x2000, 0x1000] {
      let (isThere, next) = (p.label(), p.label())
      p.recall(flags)
      p.jump(isThere, ifAny: flag)
      p.jump(next)
      p.place(isThere)
      p.recall(base)
      p.add(4)
      p.store(base)
      p.place(next)
    }
    p.load(.u16, .indexed(2))
    p.recallToX(base)
    p.jump(inner4, ifEqual: 0x0800)
    p.jump(inner6, ifEqual: 0x86dd)
    p.jump(done)

    p.place(inner6)
    mixWords(20, 36)
    p.load(.u8, .indexed(6))
    p.store(flags)
    p.takeX()
    p.add(40)
    p.moveToX()
    p.recall(flags)
    jumpToTransport(ports)
    p.jump(done)

    p.place(inner4)
    mixWords(12, 16)
    p.load(.u16, .indexed(6))
    p.jump(done, ifAny: 0x3fff)
    p.load(.u8, .indexed(9))
    p.store(flags)
    p.load(.u8, .indexed(0))
    p.and(0x0f)
    p.multiply(4)
    p.addX()
    p.moveToX()
    p.recall(flags)
    jumpToTransport(ports)
    p.jump(done)

    p.place(ports)
    p.load(.u32, .indexed(0))
    mix()
    p.place(done)
    p.recall(hash)
    p.shiftRight(16)
    p.end()
    p.place(ignored)
    p.end(with: 0)
    return p.resolved()
  }()
}

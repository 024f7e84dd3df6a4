import CPcap
public import Dataplane
import Glibc

/// A port whose frames come from a capture file (pcap or pcapng, read by libpcap) and go to another one.
///
/// Time stamps have nanoseconds. Captures of bare IP and of Linux's `any` device get an Ethernet header. A capture that
/// breaks off or is damaged delivers what comes before; `failure` then says what is wrong and where.
@safe
public final class CapturePort: Port {
  public let name: String
  public let path: String
  /// Whoever writes to a file finishes checksums and cuts super-frames first (TUN-9).
  public var capabilities: PortCapabilities { [] }
  public var mtu: Int
  public private(set) var statistics = PortStatistics()
  public var descriptor: Int32? { nil }
  public private(set) var isExhausted = false
  /// What ended the reading before the end of the file.
  public private(set) var failure: PortError?
  /// Where sent frames go; without one they are only counted.
  public let writer: CaptureWriter?

  /// `receive` leaves frames that are later than this for another batch: nanoseconds since 1970.
  public var horizon = UInt64.max

  /// The size of the file in octets; 0 where it has none, as a pipe.
  public let size: Int64
  private let capture: OpaquePointer
  private let file: UnsafeMutablePointer<FILE>
  /// The file's buffer.
  private let buffer: UnsafeMutableRawPointer?
  private let linkLayer: LinkLayer

  /// Room for a batch of the longest packets that libpcap lets through (262,144 octets) or for 256 usual ones.
  private static let memory = 4 << 20
  private static let headroom = 192
  private static let tailroom = 64
  private let pool = FramePool(slots: 1, slotSize: CapturePort.memory)
  private var used = 0
  /// The packet that no longer fitted the last batch's memory; its octets are still libpcap's.
  private var pending: Packet?

  /// Opens the capture at `path`. `name`: how users know the port; the path where it is nil.
  public init(
    path: String, name: String? = nil, mtu: Int = 65_535, writer: CaptureWriter? = nil
  ) throws(PortError) {
    var size: Int64 = 0
    var code: Int32 = 0
    var file: UnsafeMutablePointer<FILE>?
    var buffer: UnsafeMutableRawPointer?
    var message = [CChar](repeating: 0, count: Int(PCAP_ERRBUF_SIZE))
    guard let capture = unsafe kalsae_pcap_open(path, &file, &size, &code, &message, &buffer), let file = unsafe file
    else {
      let detail = message.map { UInt8(bitPattern: $0) }.prefix { $0 != 0 }
      throw PortError(
        device: path, operation: "open the capture", code: code,
        detail: code == 0 ? String(decoding: detail, as: UTF8.self) : nil,
        remedy: code == 0
          ? "give a pcap or pcapng file; `file \(path)` tells what it is"
          : code == ENOENT
            ? "check the spelling of its path" : code == EACCES || code == EPERM ? "make the file readable" : nil)
    }
    let type = unsafe pcap_datalink(capture)
    guard let linkLayer = LinkLayer(linkType: type) else {
      let text = unsafe pcap_datalink_val_to_description_or_dlt(type)
      let description = unsafe text.map { unsafe String(cString: $0) } ?? "unknown"
      unsafe pcap_close(capture)
      unsafe free(buffer)
      throw PortError(
        device: path, operation: "read the capture", detail: "its link type is \(type) (\(description))",
        remedy: "capture on an Ethernet device, or with `-i any`")
    }
    unsafe self.capture = capture
    unsafe self.file = file
    unsafe self.buffer = buffer
    self.linkLayer = linkLayer
    self.size = size
    self.path = path
    self.name = name ?? path
    self.mtu = mtu
    self.writer = writer
  }

  deinit {
    unsafe pcap_close(capture)
    unsafe free(buffer)
  }

  /// How many octets of the file have been read, for a display of progress against `size`.
  public var position: Int64 { unsafe Int64(ftello(file)) }

  public func receive(into batch: inout FrameBatch) -> Int {
    guard !batch.isFull, var (header, bytes) = unsafe nextPacket() else { return 0 }
    // Fields of an object are looked at for each access; those of a loop are not.
    let horizon = horizon
    let linkLayer = linkLayer
    let memory = unsafe pool.address(0)
    var used = used
    var received = 0
    var octets = 0
    var errors: UInt64 = 0
    while true {
      let length = unsafe Int(header.pointee.caplen)
      let room = (CapturePort.headroom + length + CapturePort.tailroom + 63) & ~63
      let timestamp = unsafe CapturePort.nanoseconds(header.pointee.ts)
      let fits = used + room <= CapturePort.memory
      guard timestamp <= horizon, fits || used == 0 else {
        unsafe pending = (header, bytes)
        break
      }
      if fits {
        var frame = unsafe Frame(
          unsafe: memory + used, capacity: room, start: CapturePort.headroom, length: length)
        unsafe (memory + used + CapturePort.headroom).copyMemory(from: bytes, byteCount: length)
        frame.timestamp = timestamp
        let wireLength = unsafe header.pointee.len
        // A damaged file may say anything; what is pushed before the packet must still fit.
        frame.wireLength = max(min(wireLength, 1 << 30), frame.length)
        if frame.wireLength > frame.length { frame.flags.insert(.truncated) }
        if linkLayer.convert(&frame) {
          batch.append(frame)
          used += room
          received += 1
          octets += length
        } else {
          errors += 1
        }
      } else {
        // Longer than all the memory there is.
        errors += 1
      }
      guard !batch.isFull, let next = unsafe readPacket() else { break }
      unsafe (header, bytes) = unsafe next
    }
    self.used = used
    statistics.receiveErrors += errors
    statistics.receivedFrames += UInt64(received)
    statistics.receivedOctets += UInt64(octets)
    return received
  }

  /// The time stamp of the next frame in nanoseconds; nil where there is none.
  public var nextTimestamp: UInt64? {
    if unsafe pending == nil { unsafe pending = nextPacket() }
    return unsafe pending.map { packet in unsafe CapturePort.nanoseconds(packet.header.pointee.ts) }
  }

  /// With nanosecond precision libpcap puts nanoseconds where the type says microseconds.
  @inline(__always)
  private static func nanoseconds(_ time: timeval) -> UInt64 {
    UInt64(bitPattern: Int64(time.tv_sec)) &* 1_000_000_000 &+ UInt64(bitPattern: Int64(time.tv_usec))
  }

  private typealias Packet = (header: UnsafeMutablePointer<pcap_pkthdr>, octets: UnsafePointer<UInt8>)

  /// The packet that was put off, or else the next one of the file; nil at its end or where it cannot be read on.
  private func nextPacket() -> Packet? {
    guard let packet = unsafe pending else { return unsafe isExhausted ? nil : readPacket() }
    unsafe pending = nil
    return unsafe packet
  }

  /// Reads on, where that is possible still.
  private func readPacket() -> Packet? {
    var header: UnsafeMutablePointer<pcap_pkthdr>?
    var bytes: UnsafePointer<UInt8>?
    let result = unsafe pcap_next_ex(capture, &header, &bytes)
    if result == 1, let header = unsafe header, let bytes = unsafe bytes { return unsafe (header, bytes) }
    isExhausted = true
    if result != PCAP_ERROR_BREAK {
      let text = unsafe pcap_geterr(capture).map { unsafe String(cString: $0) } ?? "unknown error"
      failure = PortError(
        device: path, operation: "read the capture beyond octet \(position)", detail: text,
        remedy: "the frames before it were read; the file is cut short or damaged")
    }
    return nil
  }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    var sent = 0
    for position in 0..<indices.count {
      let frame = batch[indices[position]]
      if let writer, !writer.write(frame) {
        statistics.sendErrors += 1
        continue
      }
      statistics.sentOctets += UInt64(frame.length)
      sent += 1
    }
    statistics.sentFrames += UInt64(sent)
    return sent
  }

  public func release(_ batch: inout FrameBatch) {
    used = 0
    batch.removeAll()
  }
}

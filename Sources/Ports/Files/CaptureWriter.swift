import CPcap
public import Dataplane
import Glibc

/// Writes frames to a pcap file with nanosecond time stamps (magic 0xa1b23c4d).
///
/// The file appears under its name only when `finish()` has succeeded; until then it is `NAME.tmp`, which is removed
/// where the writer goes away unfinished.
@safe
public final class CaptureWriter {
  public let path: String
  /// The frames written so far.
  public private(set) var count = 0
  /// The first failure; nothing is written after it.
  public private(set) var failure: PortError?

  private let capture: OpaquePointer
  private var dumper: OpaquePointer?
  /// The file's buffer.
  private var buffer: UnsafeMutableRawPointer?
  private var temporary: String { path + ".tmp" }

  /// Creates the file; a file of that name is replaced when this one is finished.
  public init(path: String) throws(PortError) {
    self.path = path
    let ethernet: Int32 = DLT_EN10MB
    guard
      let capture = unsafe pcap_open_dead_with_tstamp_precision(
        ethernet, 262_144, UInt32(PCAP_TSTAMP_PRECISION_NANO))
    else { throw PortError(device: path, operation: "write a capture", code: ENOMEM) }
    unsafe self.capture = capture
    var code: Int32 = 0
    unsafe dumper = kalsae_pcap_create(capture, path + ".tmp", &code, &buffer)
    if code != 0 {
      throw PortError(
        device: path, operation: "create the capture", code: code,
        remedy: code == ENOENT
          ? "create its directory first" : code == EACCES ? "choose a directory that can be written" : nil)
    }
  }

  deinit {
    if let dumper = unsafe dumper {
      unsafe pcap_dump_close(dumper)
      unsafe unlink(temporary)
    }
    unsafe free(buffer)
    unsafe pcap_close(capture)
  }

  /// Adds `frame`, with its time stamp and its length on the wire. False where the file cannot be written: see
  /// `failure`.
  @discardableResult
  public func write(_ frame: Frame) -> Bool {
    guard let dumper = unsafe dumper, failure == nil else { return false }
    var header = pcap_pkthdr()
    let (seconds, nanoseconds) = frame.timestamp.quotientAndRemainder(dividingBy: 1_000_000_000)
    header.ts.tv_sec = Int(truncatingIfNeeded: seconds)
    header.ts.tv_usec = Int(truncatingIfNeeded: nanoseconds)
    header.caplen = frame.length
    header.len = max(frame.wireLength, frame.length)
    let code = unsafe kalsae_pcap_dump(dumper, &header, frame.buffer + Int(frame.start))
    guard code == 0 else {
      fail(code)
      return false
    }
    count += 1
    return true
  }

  /// Writes out what is buffered and gives the file its name.
  public func finish() throws(PortError) {
    guard let dumper = unsafe dumper else { return }
    if failure == nil {
      let code = unsafe kalsae_pcap_flush(dumper)
      if code != 0 { fail(code) }
    }
    unsafe pcap_dump_close(dumper)
    unsafe self.dumper = nil
    if failure == nil, unsafe rename(temporary, path) != 0 { fail(errno) }
    if let failure {
      unsafe unlink(temporary)
      throw failure
    }
  }

  private func fail(_ code: Int32) {
    failure = PortError(device: path, operation: "write the capture", code: code == 0 ? EIO : code)
  }
}

import Dataplane
import Glibc
import Testing

@testable import Ports

/// A directory of the test's own, removed with it.
final class Scratch {
  let path: String

  init() {
    var template = Array("/tmp/kalsae-ports-XXXXXX".utf8CString)
    path = unsafe String(cString: mkdtemp(&template))
  }

  deinit { removeDirectory(path) }

  func file(_ name: String, _ bytes: [UInt8]) -> String {
    let name = path + "/" + name
    let file = unsafe fopen(name, "w")!
    unsafe fwrite(bytes, 1, bytes.count, file)
    unsafe fclose(file)
    return name
  }

  private func removeDirectory(_ path: String) {
    guard let directory = unsafe opendir(path) else { return }
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != "." && name != ".." { unsafe unlink(path + "/" + name) }
    }
    unsafe closedir(directory)
    unsafe rmdir(path)
  }
}

func bytes(of path: String) -> [UInt8] {
  guard let file = unsafe fopen(path, "r") else { return [] }
  var result: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 65_536)
  while case let n = unsafe fread(&buffer, 1, buffer.count, file), n > 0 { result += buffer[..<n] }
  unsafe fclose(file)
  return result
}

/// Everything that `port` delivers, in batches.
func drain(_ port: some Port, batches: Int = 100_000) -> [MemoryFrame] {
  var batch = FrameBatch()
  var frames: [MemoryFrame] = []
  for _ in 0..<batches {
    guard port.receive(into: &batch) > 0 else { break }
    for i in 0..<batch.count {
      #expect(batch[i].headroom >= Headroom.minimum)
      frames.append(MemoryFrame(batch[i]))
    }
    port.release(&batch)
  }
  return frames
}

/// Little-endian octets.
func le<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
  (0..<T.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> T(8 * $0)) }
}

/// A pcap file with microseconds (or, with the other magic, nanoseconds), as libpcap's documentation lays it out.
func pcap(magic: UInt32 = 0xa1b2_c3d4, link: UInt32 = 1, snap: UInt32 = 65_535, _ packets: [[UInt8]]) -> [UInt8] {
  le(magic) + le(UInt16(2)) + le(UInt16(4)) + le(UInt32(0)) + le(UInt32(0)) + le(snap) + le(link)
    + packets.flatMap { $0 }
}

func record(_ seconds: UInt32, _ fraction: UInt32, _ octets: [UInt8], wire: UInt32? = nil) -> [UInt8] {
  le(seconds) + le(fraction) + le(UInt32(octets.count)) + le(wire ?? UInt32(octets.count)) + octets
}

let arp: [UInt8] =
  [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 1, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10,
    0,
    0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
  ]

@Suite("Capture files")
struct CaptureTests {
  @Test("a pcap with microseconds and a truncated packet is read")
  func readsMicroseconds() throws {
    let scratch = Scratch()
    let path = scratch.file("a.pcap", pcap([record(5, 7, arp), record(6, 999_999, arp, wire: 1514)]))
    let port = try CapturePort(path: path)
    var batch = FrameBatch()
    #expect(port.receive(into: &batch) == 2)
    #expect(batch[0].timestamp == 5_000_007_000)
    #expect(batch[1].timestamp == 6_999_999_000)
    #expect(batch[0].octets.array == arp)
    #expect(batch[0].flags == [])
    #expect(batch[1].flags == .truncated)
    #expect(batch[1].wireLength == 1514)
    port.release(&batch)
    #expect(port.receive(into: &batch) == 0)
    #expect(port.isExhausted)
    #expect(port.failure == nil)
    #expect(port.position == port.size)
    #expect(port.statistics.receivedFrames == 2)
  }

  @Test("what the writer writes reads back the same, to the nanosecond")
  func roundTrip() throws {
    let scratch = Scratch()
    let path = scratch.path + "/out.pcap"
    let memory = MemoryPort()
    let sent = (0..<1000).map { i in
      MemoryFrame(
        arp + [UInt8](repeating: UInt8(i & 0xff), count: i), timestamp: 1_700_000_000_123_456_789 + UInt64(i),
        wireLength: arp.count + i + (i % 3 == 0 ? 5 : 0))
    }
    for frame in sent { memory.enqueue(frame) }
    let writer = try CaptureWriter(path: path)
    var batch = FrameBatch()
    while memory.receive(into: &batch) > 0 {
      for i in 0..<batch.count { #expect(writer.write(batch[i])) }
      memory.release(&batch)
    }
    #expect(bytes(of: path).isEmpty, "the file must not appear before it is finished")
    try writer.finish()
    #expect(bytes(of: path).prefix(4) == [0x4d, 0x3c, 0xb2, 0xa1])
    #expect(bytes(of: path + ".tmp").isEmpty)
    #expect(drain(try CapturePort(path: path)) == sent)
  }

  @Test("an unfinished writer leaves nothing behind")
  func unfinished() throws {
    let scratch = Scratch()
    do {
      let writer = try CaptureWriter(path: scratch.path + "/x.pcap")
      withFrame(arp) { _ = writer.write($0) }
    }
    #expect(unsafe access(scratch.path + "/x.pcap.tmp", F_OK) != 0)
    #expect(unsafe access(scratch.path + "/x.pcap", F_OK) != 0)
  }

  private func withFrame(_ octets: [UInt8], _ body: (Frame) -> Void) {
    let port = MemoryPort()
    port.enqueue(octets)
    var batch = FrameBatch()
    _ = port.receive(into: &batch)
    withExtendedLifetime(port) { body(batch[0]) }
  }

  @Test("a full file system is reported, and the half file is gone")
  func noSpace() throws {
    let scratch = Scratch()
    let path = scratch.path + "/full.pcap"
    try #require(unsafe symlink("/dev/full", path + ".tmp") == 0)
    let writer = try CaptureWriter(path: path)
    var written = 0
    withFrame(arp + [UInt8](repeating: 0, count: 1400)) { frame in
      for _ in 0..<5000 where writer.write(frame) { written += 1 }
    }
    #expect(written < 5000)
    let error = #expect(throws: PortError.self) { try writer.finish() }
    #expect(error?.code == ENOSPC)
    #expect(error?.description.contains("free space") == true)
    #expect(unsafe access(path, F_OK) != 0)
    var status = stat()
    #expect(unsafe lstat(path + ".tmp", &status) != 0)
  }

  @Test("a pcapng with nanosecond resolution is read")
  func readsPcapng() throws {
    func block(_ type: UInt32, _ body: [UInt8]) -> [UInt8] {
      let padded = body + [UInt8](repeating: 0, count: (4 - body.count % 4) % 4)
      let length = le(UInt32(padded.count + 12))
      return le(type) + length + padded + length
    }
    // Section header; interface description with if_tsresol = 9; enhanced packet (draft-ietf-opsawg-pcapng).
    let file =
      block(0x0a0d_0d0a, le(UInt32(0x1a2b_3c4d)) + le(UInt16(1)) + le(UInt16(0)) + le(UInt64.max))
      + block(
        1,
        le(UInt16(1)) + le(UInt16(0)) + le(UInt32(65_535)) + le(UInt16(9)) + le(UInt16(1)) + [9, 0, 0, 0]
          + le(UInt32(0)))
      + block(
        6,
        le(UInt32(0)) + le(UInt32(truncatingIfNeeded: 1_700_000_000_000_000_001 >> 32))
          + le(UInt32(truncatingIfNeeded: 1_700_000_000_000_000_001)) + le(UInt32(42)) + le(UInt32(42)) + arp)
    let scratch = Scratch()
    let frames = drain(try CapturePort(path: scratch.file("a.pcapng", file)))
    #expect(frames == [MemoryFrame(arp, timestamp: 1_700_000_000_000_000_001)])
  }

  @Test("captures of bare IP and of Linux's any device get an Ethernet header", arguments: [101, 113, 276] as [UInt32])
  func otherLinkTypes(link: UInt32) throws {
    let ip: [UInt8] = [
      0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]
    let header: [UInt8] =
      switch link {
      case 113: [0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 0x08, 0]
      case 276: [0x08, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0]
      default: []
      }
    let scratch = Scratch()
    let frames = drain(try CapturePort(path: scratch.file("a.pcap", pcap(link: link, [record(1, 0, header + ip)]))))
    let source: [UInt8] = link == 101 ? [0, 0, 0, 0, 0, 0] : [2, 0, 0, 0, 0, 9]
    #expect(frames == [MemoryFrame([0, 0, 0, 0, 0, 0] + source + [8, 0] + ip, timestamp: 1_000_000_000)])
  }

  @Test("a link type that is not Ethernet is refused by name")
  func refusesLinkType() throws {
    let scratch = Scratch()
    let path = scratch.file("wifi.pcap", pcap(link: 105, []))
    let error = #expect(throws: PortError.self) { try CapturePort(path: path) }
    let text = try #require(error).description
    #expect(text.contains("wifi.pcap") && text.contains("105") && text.contains("802.11"), "\(text)")
  }

  @Test("a file that ends in the middle of a packet delivers what comes before and says where it ends")
  func cutShort() throws {
    let scratch = Scratch()
    let whole = pcap([record(1, 0, arp), record(2, 0, arp)])
    let port = try CapturePort(path: scratch.file("cut.pcap", Array(whole.dropLast(10))))
    #expect(drain(port).count == 1)
    let failure = try #require(port.failure)
    #expect(failure.description.contains("cut.pcap") && failure.description.contains("truncated"), "\(failure)")
    #expect(failure.description.contains("\(whole.count - 10)"), "\(failure)")
  }

  @Test(
    "garbage is refused with the file's name",
    arguments: [
      [], [1, 2, 3], [UInt8](repeating: 0xaa, count: 4096), Array("#!/bin/sh\necho no pcap at all, this\n".utf8),
    ])
  func garbage(contents: [UInt8]) throws {
    let scratch = Scratch()
    let path = scratch.file("g.pcap", contents)
    let error = #expect(throws: PortError.self) { try CapturePort(path: path) }
    #expect(error?.description.contains("g.pcap") == true)
    #expect(error?.remedy != nil)
  }

  @Test(
    "absurd lengths in a capture end the reading with an error, not the process",
    arguments: [262_145, 1 << 20, .max] as [UInt32])
  func absurdLengths(length: UInt32) throws {
    let scratch = Scratch()
    let bad = le(UInt32(1)) + le(UInt32(0)) + le(length) + le(length) + [UInt8](repeating: 0, count: 64)
    let path = scratch.file("absurd.pcap", pcap(snap: .max, [record(1, 0, arp), bad]))
    let port = try CapturePort(path: path)
    #expect(drain(port).count == 1)
    #expect(port.failure != nil)
  }

  @Test("the longest packets that libpcap allows go through, a few to a batch")
  func longPackets() throws {
    let scratch = Scratch()
    let long = [UInt8](repeating: 7, count: 262_144)
    let path = scratch.file("long.pcap", pcap(snap: 262_144, (0..<40).map { record($0, 0, long) }))
    let port = try CapturePort(path: path)
    let frames = drain(port)
    #expect(frames.count == 40)
    #expect(frames.allSatisfy { $0.octets == long })
    #expect(frames.map(\.timestamp) == (0..<40).map { $0 * 1_000_000_000 })
  }

  @Test("missing files, directories and missing directories are named")
  func missing() throws {
    #expect(throws: PortError.self) { try CapturePort(path: "/tmp/kalsae-no-such.pcap") }
    #expect(throws: PortError.self) { try CapturePort(path: "/tmp") }
    let error = #expect(throws: PortError.self) { try CaptureWriter(path: "/tmp/kalsae-no-such-dir/x.pcap") }
    #expect(error?.description.contains("create its directory") == true)
  }
}

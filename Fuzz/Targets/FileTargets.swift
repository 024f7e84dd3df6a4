import CFuzz
import Dataplane
import Datastore
import FuzzEntry
import Glibc
import Ports
import Replay

/// Files in memory that are rewritten for each input.
struct MemoryFile {
  private let descriptor: Int32
  let path: String

  init(_ name: String) {
    descriptor = unsafe kalsae_memory_file(name)
    precondition(descriptor >= 0)
    path = "/proc/self/fd/\(descriptor)"
  }

  func write(_ octets: UnsafeRawBufferPointer) {
    ftruncate(descriptor, 0)
    precondition(unsafe pwrite(descriptor, octets.baseAddress, octets.count, 0) == octets.count)
  }
}

/// Captures: headers, records and blocks of pcap and pcapng, and what the frames in them look like to people.
final class CaptureTarget: FuzzTarget {
  private let file = MemoryFile("capture")
  private var batch = FrameBatch()
  private(set) var letters = 0

  func run(_ input: UnsafeRawBufferPointer) {
    unsafe file.write(input)
    guard let port = try? CapturePort(path: file.path) else { return }
    for _ in 0..<64 {
      _ = port.nextTimestamp
      guard port.receive(into: &batch) > 0 else { break }
      for index in 0..<batch.count {
        let frame = batch[index]
        precondition(frame.octets.count >= 14 && frame.wireLength >= frame.length)
        letters &+= PacketText(frame.octets).line.utf8.count
      }
      port.release(&batch)
    }
    port.release(&batch)
  }
}

/// Manifests, YAML and JSON: the first octet says which.
final class ManifestTarget: FuzzTarget {
  private(set) var objects = 0

  func run(_ input: UnsafeRawBufferPointer) {
    guard input.count > 0, input.count < 16_384 else { return }
    let bytes = unsafe [UInt8](input.dropFirst())
    let file = unsafe input[0] & 1 == 0 ? "fuzz.yaml" : "fuzz.json"
    guard let contents = try? readManifests(bytes, file: file) else { return }
    for object in contents.objects {
      precondition(object.resource != nil || !object.errors.isEmpty, "refused without a reason")
      objects &+= 1
    }
  }
}

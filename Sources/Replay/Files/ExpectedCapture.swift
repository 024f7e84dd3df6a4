import Dataplane
import Ports

/// Compares frames, as they are sent, with those of a capture. Only the first difference is kept.
final class ExpectedCapture: FrameSink {
  let name: String
  /// Nil where there is no such file: then nothing may be sent.
  private let expected: CapturePort?
  private var batch = FrameBatch(capacity: 64)
  private var next = 0
  private var count = 0
  /// The first difference, in lines for people.
  private(set) var difference: String?

  /// `path` nil: no frame is expected.
  init(name: String, path: String?) throws(ReplayError) {
    self.name = name
    do throws(PortError) { expected = try path.map { path throws(PortError) in try CapturePort(path: path) } } catch {
      throw ReplayError(error)
    }
  }

  func take(_ frame: Frame) {
    guard difference == nil else { return }
    count += 1
    guard let wanted = nextExpected() else {
      difference = """
        \(name): packet \(count) is one more than expected
          got       \(utcTime(frame.timestamp))  \(PacketText(frame.octets).line)
        """
      return
    }
    difference = compare(frame, wanted)
  }

  private func nextExpected() -> Frame? {
    guard let expected else { return nil }
    if next == batch.count {
      expected.release(&batch)
      next = 0
      guard expected.receive(into: &batch) > 0 else { return nil }
    }
    next += 1
    return batch[next - 1]
  }

  /// Notes what is still to come at the end.
  func finish() throws(ReplayError) {
    if difference == nil, let missing = nextExpected() {
      difference = """
        \(name): packet \(count + 1) is missing; \(count) came
          expected  \(utcTime(missing.timestamp))  \(PacketText(missing.octets).line)
        """
    }
    if let failure = expected?.failure { throw ReplayError(failure) }
  }

  private func compare(_ frame: Frame, _ wanted: Frame) -> String? {
    let got = frame.octets
    let want = wanted.octets
    if got.isEqual(to: want), frame.timestamp == wanted.timestamp, frame.wireLength == wanted.wireLength { return nil }
    var what: String
    var place = 0
    while place < min(got.count, want.count), got[place] == want[place] { place += 1 }
    var details = ""
    if place < min(got.count, want.count) {
      what = "differs at octet \(place)"
      let text = PacketText(want)
      if let field = text.field(at: place) ?? PacketText(got).field(at: place) { what += " (\(field))" }
      details = "\n" + hexLines(want, got, around: place)
    } else if got.count != want.count || frame.wireLength != wanted.wireLength {
      what = "has \(got.count) octets instead of \(want.count)"
    } else {
      what = "has another time stamp"
    }
    return """
      \(name): packet \(count) \(what)
        expected  \(utcTime(wanted.timestamp))  \(PacketText(want).line)
        got       \(utcTime(frame.timestamp))  \(PacketText(got).line)
      """ + details
  }

  /// The sixteen octets around a place, of both, with a mark under the place.
  private func hexLines(_ want: Octets, _ got: Octets, around place: Int) -> String {
    let start = place & ~15
    func line(_ octets: Octets) -> String {
      let shown = (start..<max(start, min(start + 16, octets.count))).map { offset in
        (octets[offset] < 16 ? "0" : "") + String(octets[offset], radix: 16)
      }
      return shown.joined(separator: " ")
    }
    let offset = String(start, radix: 16)
    let label = "0x" + String(repeating: "0", count: max(0, 4 - offset.count)) + offset
    let mark = String(repeating: " ", count: 12 + label.count + 2 + 3 * (place - start)) + "^^"
    return "  expected  \(label)  \(line(want))\n  got       \(label)  \(line(got))\n\(mark)"
  }
}

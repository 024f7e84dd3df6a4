import CLinux
import Glibc
import Synchronization

/// Whether a port's packets come in bundles: looking for them all the time would find none sooner.
public final class Bundling: Sendable {
  private let flag = Atomic(false)

  public internal(set) var isOn: Bool {
    get { flag.load(ordering: .relaxed) }
    set { flag.store(newValue, ordering: .relaxed) }
  }
}

/// Has a device hold packets back for some microseconds while many come, so that the kernel and the worker take them together,
/// and deliver each at once while few do. Ports at several queues of the device share it.
final class Moderation: Sendable {
  /// Nanoseconds that packets are held back. Of 10, 20, 50 and 100 µs, 50 carried the most small packets.
  private static let time: UInt64 = 50_000
  /// The length of a window in which packets are counted, and how many make the device begin and cease.
  private static let window: UInt64 = 1_000_000
  private static let many: UInt64 = 50
  private static let few: UInt64 = 20

  /// Says whether packets come in bundles now.
  let bundling = Bundling()
  private let device: String
  private let namespace: String?
  private let former: kalsae_xdp_moderation
  private let descriptor: Int32
  private let windowStart = Atomic<UInt64>(0)
  private let packets = Atomic<UInt64>(0)

  /// In the device's network namespace, which `namespace` names.
  init(_ device: String, namespace: String?) throws(PortError) {
    func failure(_ code: Int32, _ remedy: String? = nil) -> PortError {
      PortError(device: device, operation: "have it hold packets back under load", code: code, remedy: remedy)
    }
    // Until then whoever sets it waits for whatever else is being done to any device.
    guard kalsae_kernel_at_least(6, 14) != 0 else { throw failure(EOPNOTSUPP, "it needs Linux 6.14 or later") }
    var former = kalsae_xdp_moderation()
    let result = unsafe kalsae_xdp_moderate(device, kalsae_xdp_moderation(timeout: 0, deferrals: 2), &former)
    guard result == 0 else { throw failure(-result) }
    let descriptor = unsafe kalsae_xdp_open_timeout(device)
    guard descriptor >= 0 else { throw failure(-descriptor) }
    self.device = device
    self.namespace = namespace
    self.former = former
    self.descriptor = descriptor
  }

  deinit {
    close(descriptor)
    let (device, former) = (device, former)
    // The device may be gone.
    _ = try? inNamespace(namespace, device: device) { () throws(PortError) in
      var present = kalsae_xdp_moderation()
      _ = unsafe kalsae_xdp_moderate(device, former, &present)
    }
  }

  /// Counts packets, and has the device begin or cease to hold some back.
  func note(_ count: Int, at now: UInt64) {
    if count > 0 { packets.wrappingAdd(UInt64(truncatingIfNeeded: count), ordering: .relaxed) }
    let start = windowStart.load(ordering: .relaxed)
    // Unsigned: another worker's window may have begun a moment later than this one's now.
    guard now > start, now &- start >= Moderation.window,
      windowStart.compareExchange(expected: start, desired: now, ordering: .relaxed).exchanged
    else { return }
    let rate = packets.exchange(0, ordering: .relaxed) &* Moderation.window / (now &- start)
    let wanted = rate >= (bundling.isOn ? Moderation.few : Moderation.many)
    guard wanted != bundling.isOn, kalsae_xdp_set_timeout(descriptor, wanted ? Moderation.time : 0) == 0 else { return }
    bundling.isOn = wanted
  }
}

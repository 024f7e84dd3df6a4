public import Addresses
import CLinux
public import Dataplane
import Glibc

/// A port that is the far side of a TAP device: what the kernel sends out by the device comes in here, and what is
/// transmitted here the kernel receives on the device. Super-frames and partial checksums pass both ways.
///
/// The device is made where there is none of that name, and goes with the port unless it is persistent.
public final class TAPPort: Port {
  public struct Options: Sendable {
    /// The network namespace in which the device appears, `/run/netns/NAME` for example; nil for the current one.
    public var namespace: String?
    /// The device's own hardware address; nil leaves it to the kernel.
    public var mac: MACAddress?
    /// The device's MTU; nil leaves it.
    public var mtu: Int?
    /// Brings the device up.
    public var up = true
    /// The device stays when the port goes.
    public var persistent = false
    /// The frames that can be out between `receive` and `release`.
    public var slots = FrameBatch.standardCapacity

    public init() {}
  }

  /// What became of the device.
  public enum State: Sendable, Equatable { case up, down, removed }

  public let name: String
  public let interfaceIndex: Int32
  /// The hardware address of the device when the port was opened.
  public let mac: MACAddress
  public let capabilities: PortCapabilities
  /// The device's MTU: as of the opening or of the last `refresh()`, or as the worker was told since.
  public var mtu: Int
  public private(set) var state: State = .up
  /// `kernelDrops` is always 0 here: the device counts those, as `tx_dropped`.
  public var statistics: PortStatistics { counters + output.statistics }
  public var isExhausted: Bool { state == .removed }
  public var descriptor: Int32? { file }

  private let file: Int32
  private let output: TAPSender
  private var counters = PortStatistics()
  private let namespace: String?
  private let pool: FramePool
  private var used = 0

  /// With the vnet header before the frame, the network-layer header begins on a 32-octet boundary.
  private static let headroom = 146
  private static let vnetLength = 12
  /// The longest super-frame, headroom, and no multiple of the page size, so that slots do not share cache sets.
  private static let slotSize = 69_904

  /// Opens the TAP device `name`; a `%d` in it is replaced by a free number.
  public init(name: String, options: Options = Options()) throws(PortError) {
    guard !name.isEmpty, name.utf8.count < 16, !name.contains("/"), options.slots > 0, options.slots <= 65_535 else {
      throw PortError(
        device: name, operation: "open the TAP device", detail: "its name or its number of slots will not do",
        remedy: "a name has 1 to 15 characters without `/`; 1 to 65535 slots")
    }
    let opened = try inNamespace(options.namespace, device: name) { () throws(PortError) in
      try TAPPort.open(name, options)
    }
    file = opened.file
    self.name = opened.device.name
    interfaceIndex = opened.device.index
    mac = opened.device.mac
    mtu = opened.device.mtu
    namespace = options.namespace
    state = opened.device.isUp ? .up : .down
    pool = FramePool(slots: options.slots, slotSize: TAPPort.slotSize)
    // What the kernel takes from us does not depend on what it agreed to give to us, but for UDP segmentation, which
    // is new in both directions at once.
    let udp = opened.offloads & KALSAE_TUN_USO4 != 0
    capabilities = udp ? [.checksum, .tcp4, .tcp6, .udp] : [.checksum, .tcp4, .tcp6]
    output = TAPSender(to: SendDescriptor(of: file), name: name, mtu: mtu, capabilities)
  }

  /// Goes on with a port that another process has handed over; it is not made anew. The descriptor belongs to the port,
  /// unless this throws.
  public init(adopting inherited: InheritedPort, options: Options = Options()) throws(PortError) {
    guard inherited.kind == .tap, inherited.descriptor >= 0, options.slots > 0, options.slots <= 65_535 else {
      throw PortError(device: inherited.device, operation: "go on with the port", detail: "it is no TAP device")
    }
    let device = try inNamespace(options.namespace, device: inherited.device) { () throws(PortError) in
      try InterfaceDescription(index: inherited.interface)
    }
    file = inherited.descriptor
    name = device.name
    interfaceIndex = device.index
    mac = device.mac
    mtu = device.mtu
    namespace = options.namespace
    state = device.isUp ? .up : .down
    pool = FramePool(slots: options.slots, slotSize: TAPPort.slotSize)
    capabilities = PortCapabilities(rawValue: inherited.capabilities)
    output = TAPSender(to: SendDescriptor(of: file), name: name, mtu: mtu, capabilities)
  }

  /// What another process needs to go on with the port; the descriptor still belongs to this one.
  public var handover: InheritedPort {
    var port = InheritedPort(kind: .tap, interface: interfaceIndex, device: name, capabilities: capabilities)
    port.descriptor = file
    return port
  }

  deinit { close(file) }

  private struct Opened {
    var file: Int32
    var offloads: UInt32
    var device: InterfaceDescription
  }

  private static func open(_ name: String, _ options: Options) throws(PortError) -> Opened {
    var offloads: UInt32 = 0
    var step: UnsafePointer<CChar>?
    var text = name.utf8CString.map { $0 } + [CChar](repeating: 0, count: 16)
    let file = unsafe kalsae_tap_open(&text, options.persistent ? 1 : 0, &offloads, &step)
    func error(_ code: Int32) -> PortError {
      let operation = unsafe step.map { unsafe String(cString: $0) } ?? "open the TAP device"
      let remedy: String? =
        switch code {
        case ENOENT, ENXIO: "load the kernel's tun module: `modprobe tun`"
        case EINVAL: "\(name) may exist as another kind of device; `ip link` lists them"
        default: nil
        }
      return PortError(device: name, operation: operation, code: code, remedy: remedy)
    }
    guard file >= 0 else { throw error(-file) }
    let actual = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    var octets: [UInt8] =
      options.mac.map { mac in
        (0..<6).map { UInt8(truncatingIfNeeded: mac.rawValue >> (40 - 8 * UInt64($0))) }
      } ?? []
    let result = unsafe octets.withUnsafeMutableBufferPointer { mac in
      unsafe kalsae_interface_set(
        actual, mac.isEmpty ? nil : mac.baseAddress, Int32(clamping: options.mtu ?? 0), options.up ? 1 : 0, &step)
    }
    do throws(PortError) {
      guard result == 0 else { throw error(-result) }
      return Opened(file: file, offloads: offloads, device: try InterfaceDescription(named: actual))
    } catch {
      close(file)
      throw error
    }
  }

  public func receive(into batch: inout FrameBatch) -> Int {
    var received = 0
    while !batch.isFull, used < pool.slots {
      let result = unsafe kalsae_tap_read(
        file, pool.address(used) + (TAPPort.headroom - TAPPort.vnetLength),
        UInt(TAPPort.slotSize - TAPPort.headroom + TAPPort.vnetLength))
      guard result > 0 else {
        if result == -Int(EBADFD) || result == -Int(EIO) || result == -Int(ENODEV) { state = .removed }
        break
      }
      let length = result - TAPPort.vnetLength
      guard length >= 14 else {
        counters.receiveErrors += 1
        continue
      }
      var frame = pool.frame(used, headroom: TAPPort.headroom, length: length)
      let header = unsafe (pool.address(used) + (TAPPort.headroom - TAPPort.vnetLength)).loadUnaligned(
        as: VirtioHeader.self)
      guard header.describe(&frame) else {
        counters.receiveErrors += 1
        continue
      }
      batch.append(frame)
      used += 1
      received += 1
      counters.receivedOctets += UInt64(length)
    }
    if received > 0, state == .down { state = .up }
    counters.receivedFrames += UInt64(received)
    return received
  }

  public func release(_ batch: inout FrameBatch) {
    used = 0
    batch.removeAll()
  }

  public func transmit(_ batch: borrowing FrameBatch, _ indices: borrowing FrameList) -> Int {
    let sent = output.transmit(batch, indices)
    switch output.takeOutcome() {
    case .sent where state == .down: state = .up
    case .down where state == .up: state = .down
    case .removed: state = .removed
    default: break
    }
    return sent
  }

  /// What another worker sends by; it must not outlive the port. nil: no descriptor is left.
  public func sender() -> TAPSender? {
    guard let copy = SendDescriptor(copying: file) else { return nil }
    return TAPSender(to: copy, name: name, mtu: mtu, capabilities)
  }

  /// Reads the device's state and MTU anew: on the port's worker, when the control plane has heard of a change.
  public func refresh() {
    guard state != .removed else { return }
    let index = interfaceIndex
    do throws(PortError) {
      let device = try inNamespace(namespace, device: name) { () throws(PortError) in
        try InterfaceDescription(index: index)
      }
      mtu = device.mtu
      state = device.isUp ? .up : .down
    } catch {
      if error.code == ENODEV || error.code == ENXIO { state = .removed }
    }
  }
}

/// The packets of the batch that leave, in order for each port.
struct Output: ~Copyable {
  /// First and last packet of each port's chain; -1: none. Stored plus one, so that fresh memory is empty.
  private var heads = Memory<Int32>(count: 64)
  private var tails = Memory<Int32>(count: 64)
  private var touched = FrameList(capacity: 4096)
  /// The finished packets at the head of one port's chain, so to speak: most of a batch leave by one port, and need no
  /// chain. What must come behind a packet that is in the port's chain goes into the chain too.
  private var main = FrameList()
  private var mainPort = -1
  /// `mainPort` as long as its packets may be listed; else -1.
  private var openPort = -1
  private var list = FrameList()
  private var segments = FrameBatch(capacity: 64)
  private var segmentList = FrameList(capacity: 64)
  private var arena = FrameArena()

  mutating func reserve(ports: Int) {
    heads.grow(to: ports)
    tails.grow(to: ports)
  }

  @inline(__always)
  mutating func append(_ index: Int, to port: PortIndex, _ contexts: borrowing PerPacket<PacketContext>) {
    let number = Int(port.rawValue)
    // From now on this port's packets are chained.
    if number == openPort { openPort = -1 }
    contexts[index].next = -1
    let tail = tails[number]
    if tail == 0 {
      heads[number] = Int32(truncatingIfNeeded: index) + 1
      touched.append(number)
    } else {
      contexts[Int(tail) - 1].next = Int32(truncatingIfNeeded: index)
    }
    tails[number] = Int32(truncatingIfNeeded: index) + 1
  }

  /// The same for a packet that no port has to finish.
  @inline(__always)
  mutating func appendFinished(_ index: Int, to port: PortIndex, _ contexts: borrowing PerPacket<PacketContext>) {
    let number = Int(port.rawValue)
    if number == openPort { return main.append(index) }
    if mainPort < 0, tails[number] == 0 {
      mainPort = number
      openPort = number
      return main.append(index)
    }
    append(index, to: port, contexts)
  }

  /// For a loop that lists finished packets by itself: the list, and the port whose packets go there; -1: none, which the
  /// loop may change where it may open one.
  var open: (list: FrameListView, port: Int, mayOpen: Bool) {
    @inline(__always) get { (main.view, openPort, mainPort < 0 && touched.isEmpty) }
  }

  /// Takes back what `open` gave out: the list's length, and the port.
  @inline(__always)
  mutating func close(_ count: Int, port: Int) {
    main.take(count)
    guard port != openPort else { return }
    mainPort = port
    openPort = port
  }

  /// Hands every port its packets. What a port cannot carry unfinished is finished first: checksums are completed,
  /// super-frames cut (TUN-9).
  mutating func flush(
    _ batch: inout FrameBatch, _ contexts: borrowing PerPacket<PacketContext>, _ tables: borrowing Tables,
    _ ports: borrowing PortSet, _ drops: inout DropCounters, _ paces: borrowing Memory<PortPace>, _ now: UInt64
  ) {
    if tables.ports.hasLimits { limit(batch, contexts, tables, &drops, paces, now) }
    flushMain(&batch, ports, &drops, now)
    for position in 0..<touched.count {
      let number = touched[position]
      let index = PortIndex(UInt16(truncatingIfNeeded: number))
      var next = Int(heads[number]) - 1
      heads[number] = 0
      tails[number] = 0
      guard let port = ports[index] else {
        while next >= 0 {
          drops.add(.portDown, at: batch[next].port, frame: batch[next], timestamp: now)
          next = Int(contexts[next].next)
        }
        continue
      }
      let capabilities = port.capabilities
      while next >= 0 {
        let frame = batch[next]
        if frame.segmentation == .none, !frame.flags.contains(.checksumPartial) {
          list.append(next)
        } else {
          finish(next, port, capabilities, &batch, contexts, tables, &drops, now)
        }
        next = Int(contexts[next].next)
      }
      send(port, &batch, &drops, now)
    }
    touched.removeAll()
  }

  private mutating func flushMain(
    _ batch: inout FrameBatch, _ ports: borrowing PortSet, _ drops: inout DropCounters, _ now: UInt64
  ) {
    guard mainPort >= 0 else { return }
    if let port = ports[PortIndex(UInt16(truncatingIfNeeded: mainPort))] {
      swap(&main, &list)
      send(port, &batch, &drops, now)
      swap(&main, &list)
    } else {
      for position in 0..<main.count {
        let frame = batch[main[position]]
        drops.add(.portDown, at: frame.port, frame: frame, timestamp: now)
      }
    }
    main.removeAll()
    mainPort = -1
    openPort = -1
  }

  /// Takes away what is more than may leave by its port.
  @inline(never)
  private mutating func limit(
    _ batch: borrowing FrameBatch, _ contexts: borrowing PerPacket<PacketContext>, _ tables: borrowing Tables,
    _ drops: inout DropCounters, _ paces: borrowing Memory<PortPace>, _ now: UInt64
  ) {
    if mainPort >= 0, tables.ports.limits[mainPort].send.isLimit {
      let rate = tables.ports.limits[mainPort].send
      swap(&main, &list)
      for position in 0..<list.count
      where Output.passes(batch[list[position]], mainPort, rate, paces, &drops, now) { main.append(list[position]) }
      list.removeAll()
    }
    for position in 0..<touched.count {
      let number = touched[position]
      let rate = tables.ports.limits[number].send
      guard rate.isLimit else { continue }
      var next = Int(heads[number]) - 1
      var last = -1
      heads[number] = 0
      while next >= 0 {
        if Output.passes(batch[next], number, rate, paces, &drops, now) {
          if last < 0 {
            heads[number] = Int32(truncatingIfNeeded: next) + 1
          } else {
            contexts[last].next = Int32(truncatingIfNeeded: next)
          }
          last = next
        }
        next = Int(contexts[next].next)
      }
      if last >= 0 { contexts[last].next = -1 }
    }
  }

  /// Whether a frame may leave by a port; counts it where not.
  private static func passes(
    _ frame: Frame, _ number: Int, _ rate: PacedRate, _ paces: borrowing Memory<PortPace>,
    _ drops: inout DropCounters, _ now: UInt64
  ) -> Bool {
    guard !frame.resolvesAddresses, !paces[number].sends(frame.wireLength, at: now, rate) else { return true }
    drops.add(.bandwidth, at: frame.port, frame: frame, timestamp: now)
    return false
  }

  /// Hands over what is listed.
  private mutating func send(
    _ port: any Port, _ batch: inout FrameBatch, _ drops: inout DropCounters, _ now: UInt64
  ) {
    guard !list.isEmpty else { return }
    let sent = port.transmit(batch, list)
    for position in sent..<max(list.count, sent) {
      let frame = batch[list[position]]
      drops.add(port.isExhausted ? .portDown : .transmitFull, at: frame.port, frame: frame, timestamp: now)
    }
    list.removeAll()
  }

  /// Finishes a packet that came unfinished.
  private mutating func finish(
    _ index: Int, _ port: any Port, _ capabilities: PortCapabilities, _ batch: inout FrameBatch,
    _ contexts: borrowing PerPacket<PacketContext>, _ tables: borrowing Tables, _ drops: inout DropCounters,
    _ now: UInt64
  ) {
    let frame = batch[index]
    let hop = Int(contexts[index].hop)
    let isTunnelled = tables.hops.records[hop].encapsulation != Encapsulation.none.rawValue
    if frame.segmentation == .none {
      // Inside a tunnel nobody else knows where the checksum is.
      if !isTunnelled, capabilities.contains(.checksum) || batch[index].completeChecksum() {
        list.append(index)
      } else if isTunnelled, batch[index].completeChecksum() {
        list.append(index)
      } else {
        drops.add(.cannotSegment, at: frame.port, frame: frame, timestamp: now)
      }
      return
    }
    if !isTunnelled, capabilities.carries(frame.segmentation), capabilities.contains(.checksum) {
      list.append(index)
      return
    }
    if isTunnelled, capabilities.contains(.tunnels), isUniform(frame, tables.hops.records[hop]) {
      batch[index].tunnelLength = UInt8(truncatingIfNeeded: tables.hops.records[hop].overhead)
      list.append(index)
      return
    }
    // What is listed goes first, so that no flow is reordered.
    send(port, &batch, &drops, now)
    let length = Int(tables.hops.records[hop].length)
    let octets = frame.octets
    guard var layout = HeaderLayout(octets.dropping(length), network: 0) else {
      drops.add(.cannotSegment, at: frame.port, frame: frame, timestamp: now)
      return
    }
    if isTunnelled {
      let network = EthernetHeader.length
      let transport = network + (tables.hops.records[hop].outerIPv6 ? IPv6Header.length : IPv4Header.length)
      let encapsulation = tables.hops.records[hop].encapsulation
      layout.encapsulate(
        shift: length, outerNetwork: network,
        outerUDP: encapsulation >= Encapsulation.vxlan.rawValue ? transport : nil,
        gre: encapsulation == Encapsulation.gre.rawValue ? transport : nil)
    } else {
      layout.shift(by: length)
    }
    guard var plan = SegmentPlan(frame, layout, finishChecksum: !capabilities.contains(.checksum)) else {
      drops.add(.cannotSegment, at: frame.port, frame: frame, timestamp: now)
      return
    }
    while !plan.isComplete {
      segments.removeAll()
      segmentList.removeAll()
      arena.reset()
      let made = plan.emit(into: &segments, arena: &arena)
      guard made > 0 else {
        drops.add(.cannotSegment, at: frame.port, frame: frame, timestamp: now)
        return
      }
      for position in 0..<made { segmentList.append(position) }
      let sent = port.transmit(segments, segmentList)
      for position in sent..<max(made, sent) {
        drops.add(.transmitFull, at: frame.port, frame: segments[position], timestamp: now)
      }
    }
  }
}

/// Whether the tunnel's headers are the same before every segment of a super-frame: outer checksums and sequence numbers
/// are not, and lengths must fit their fields.
private func isUniform(_ frame: Frame, _ hop: HopRecord) -> Bool {
  frame.segmentation != .udp && frame.flags.contains(.checksumPartial)
    && hop.options.isDisjoint(with: [.udpChecksum, .greChecksum, .greSequence])
    && Int(frame.length) - EthernetHeader.length <= 65_535
}

extension Core {
  mutating func flush(_ batch: inout FrameBatch, _ tables: borrowing Tables, _ ports: borrowing PortSet) {
    output.flush(&batch, contexts, tables, ports, &drops, paces, now)
  }
}

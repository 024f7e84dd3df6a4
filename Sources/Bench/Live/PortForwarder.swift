import CLinux
import Dataplane
import Glibc
import Lab
import Ports
import Synchronization

/// A thread that carries every frame from each of two ports to the other: what a port costs by itself, without a data
/// plane. It sleeps when nothing waits.
final class PortForwarder: Sendable {
  private let isStopping = Atomic(false)
  private let hasEnded = Atomic(false)
  private let waker: PollerWaker

  private final class Work: @unchecked Sendable {
    let ports: [any Port]
    let poller: Poller
    let owner: PortForwarder

    init(_ ports: [any Port], _ poller: Poller, _ owner: PortForwarder) {
      self.ports = ports
      self.poller = poller
      self.owner = owner
    }

    func run() {
      var batch = FrameBatch()
      var list = FrameList()
      while !owner.isStopping.load(ordering: .acquiring) {
        for position in 0..<poller.wait(nanoseconds: 100_000_000) {
          let index = Int(poller.ready(position).rawValue)
          guard ports[index].receive(into: &batch) > 0 else { continue }
          list.removeAll()
          for frame in 0..<batch.count { list.append(frame) }
          _ = ports[1 - index].transmit(batch, list)
          ports[index].release(&batch)
        }
      }
      owner.hasEnded.store(true, ordering: .releasing)
    }
  }

  init(_ first: any Port, _ second: any Port) throws {
    let poller = try Poller()
    waker = poller.waker
    for (index, port) in [first, second].enumerated() {
      if let descriptor = port.descriptor { try poller.add(descriptor, port: PortIndex(UInt16(index))) }
    }
    let work = unsafe Unmanaged.passRetained(Work([first, second], poller, self))
    let error = unsafe kalsae_thread_start(
      "kalsae-ports", { unsafe Unmanaged<Work>.fromOpaque($0!).takeRetainedValue().run() }, work.toOpaque())
    guard error == 0 else {
      unsafe work.release()
      throw LabError.system(what: "start a thread", errno: error)
    }
  }

  /// Ends the thread and returns when it has ended.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    while !hasEnded.load(ordering: .acquiring) {
      waker.wake()
      usleep(500)
    }
  }
}

import CLinux
import Dataplane
import Ports

/// The threads that move packets. The packets of a port are received by one of them, or by all, each by a socket of its own: so
/// those of a flow that come the same way stay in order. Any of them sends by it.
final class Workers {
  private let all: [Worker]
  /// What a port weighs for those who receive by it.
  private var shares: [PortIndex: [(worker: Int, weight: Int)]] = [:]

  /// What the port to other nodes has to carry, in pods.
  static let underlayWeight = 16

  /// One worker for each lane. `onRequests` is called on the workers' threads; it must be quick.
  init(
    _ lanes: [Lane], busyPoll: Bool, onRequests: @escaping @Sendable ([ControlRequest]) -> Void
  ) throws(PortError) {
    var workers: [Worker] = []
    for (number, lane) in lanes.enumerated() {
      // The first sees to what time brings; the others to their ports.
      workers.append(
        try Worker(
          lane, processor: busyPoll ? Workers.processor(number) : nil, passesTime: number == 0, onRequests: onRequests))
    }
    all = workers
    setBusyPoll(busyPoll)
  }

  /// The processor for a worker that never sleeps: the last ones of those that the process may use. A worker that sleeps is
  /// best left to the scheduler, which knows who else wants to run.
  private static func processor(_ number: Int) -> Int32? {
    var numbers = [Int32](repeating: 0, count: 1024)
    let count = Int(unsafe kalsae_processors(&numbers, Int32(numbers.count)))
    return count > number + 1 ? numbers[count - 1 - number] : nil
  }

  /// As many as can run at once.
  static var most: Int {
    var numbers = [Int32](repeating: 0, count: 1024)
    return max(1, Int(unsafe kalsae_processors(&numbers, Int32(numbers.count))))
  }

  var count: Int { all.count }
  /// Where what all have in common can be looked at, inside `DataPath.change`.
  var lane: Lane { all[0].lane }

  /// Has every worker receive and send by a port of its own to one device, whose packets these share. Of one alone the worker
  /// with the least to do receives, and all send by it. Inside `DataPath.change`.
  func add(_ ports: [any Port], at index: PortIndex, weight: Int = 1) throws(PortError) {
    guard ports.count > 1 else { return try add(ports[0], at: index, weight: weight) }
    precondition(ports.count == all.count)
    for (number, port) in ports.enumerated() {
      do throws(PortError) { try all[number].add(port, at: index) } catch {
        for worker in all[..<number] { worker.remove(index) }
        throw error
      }
    }
    shares[index] = all.indices.map { ($0, weight / all.count) }
  }

  private func add(_ port: any Port, at index: PortIndex, weight: Int) throws(PortError) {
    let loads = loads
    let owner = loads.indices.min { loads[$0] < loads[$1] } ?? 0
    var senders: [(Worker, any Port)] = []
    for (number, worker) in all.enumerated() where number != owner {
      guard let sender = port.senderForOthers else {
        throw PortError(device: port.name, operation: "have several workers send by it")
      }
      senders.append((worker, sender))
    }
    try all[owner].add(port, at: index)
    for (worker, sender) in senders { worker.lane[port: index] = sender }
    shares[index] = [(owner, weight)]
  }

  /// What each worker receives by, in weights.
  private var loads: [Int] {
    var loads = [Int](repeating: 0, count: all.count)
    for share in shares.values.joined() { loads[share.worker] += share.weight }
    return loads
  }

  /// Lets go of a port, and has others' packets received by the workers that have less to do now. Inside `DataPath.change`.
  func remove(_ index: PortIndex) {
    for worker in all { worker.remove(index) }
    shares[index] = nil
    level()
  }

  /// Moves ports that one worker receives by from the one with the most to do to the one with the least, while that makes them
  /// more alike.
  private func level() {
    for _ in 0..<shares.count {
      let loads = loads
      guard let most = loads.indices.max(by: { loads[$0] < loads[$1] }),
        let least = loads.indices.min(by: { loads[$0] < loads[$1] }),
        let (index, share) = shares.first(where: {
          $0.value.count == 1 && $0.value[0].worker == most && loads[least] + $0.value[0].weight < loads[most]
        }), let port = all[most].lane[port: index], let sender = all[least].lane[port: index],
        // Where it cannot be waited for, it stays where it is.
        (try? all[least].add(port, at: index)) != nil
      else { return }
      all[most].remove(index)
      all[most].lane[port: index] = sender
      shares[index] = [(least, share[0].weight)]
    }
  }

  func setBusyPoll(_ isOn: Bool) { for worker in all { worker.busyPoll.store(isOn, ordering: .relaxed) } }

  func start() throws { for worker in all { try worker.start() } }

  /// Ends all threads and returns when they have ended.
  func stop() { for worker in all { worker.stop() } }

  func wake() { for worker in all { worker.waker.wake() } }
}

extension Port {
  /// What a worker sends by that does not receive by the port; nil: there is no such thing, or no descriptor left.
  fileprivate var senderForOthers: (any Port)? {
    switch self {
    case let port as AFPacketPort: port.sender()
    case let port as TAPPort: port.sender()
    case let port as XDPPort: port.behind?.sender()
    default: nil
    }
  }
}

import CLinux
import Glibc
import Synchronization

/// What other threads have the control side do: each job runs on the agent's thread, and whoever asked waits for it.
final class ControlQueue: Sendable {
  fileprivate struct Job: Sendable {
    /// Changes what is wanted.
    var change: @Sendable (Agent) -> Void
    /// Looks at what came of it, once everything is up to date.
    var after: @Sendable (Agent) -> Void
    var settles: Bool
    var abandon: @Sendable () -> Void
  }

  private let mailbox: Mailbox<Job>
  private let isClosed = Mutex(false)

  init() throws { mailbox = try Mailbox() }

  /// Becomes readable when jobs wait.
  var descriptor: Int32 { mailbox.descriptor }

  /// Has the control side make a change, bring everything up to date, and look; returns at once. What comes of it is
  /// told by `Answer.get`.
  ///
  /// Several changes that wait are made at once, so that what each costs the packets is paid once.
  func start<R: Sendable>(
    settles: Bool = true, _ change: @escaping @Sendable (Agent) -> Void = { _ in },
    then after: @escaping @Sendable (Agent) -> R
  ) -> Answer<R> {
    let answer = Answer<R>()
    let job = Job(
      change: change, after: { agent in answer.give(after(agent)) }, settles: settles,
      abandon: { answer.give(nil) })
    let isTaken = isClosed.withLock { isClosed in
      if !isClosed { mailbox.put([job]) }
      return !isClosed
    }
    if !isTaken { answer.give(nil) }
    return answer
  }

  /// On the control thread: does what waits.
  func work(for agent: Agent) {
    let jobs = mailbox.takeAll()
    guard !jobs.isEmpty else { return }
    // What the kernel has told about devices that were just made is known before they are looked for.
    agent.takeKernelEvents()
    for job in jobs { job.change(agent) }
    if jobs.contains(where: \.settles) { agent.settle() }
    for job in jobs { job.after(agent) }
  }

  /// From now on nothing is taken any more, and who waits is told.
  func close() {
    isClosed.withLock { $0 = true }
    for job in mailbox.takeAll() { job.abandon() }
  }
}

/// The agent is ending.
struct ControlQueueClosed: Error {}

/// A place for one answer that one thread waits for.
final class Answer<R: Sendable>: Sendable {
  private let descriptor = kalsae_event_create()
  private let state = Mutex<(isGiven: Bool, value: R?)>((false, nil))

  deinit { close(descriptor) }

  fileprivate func give(_ value: R?) {
    state.withLock { $0 = (true, value) }
    kalsae_event_signal(descriptor)
  }

  /// Waits for the answer. Throws where the agent is ending.
  func get() throws(ControlQueueClosed) -> R {
    while true {
      if let state = state.withLock({ $0.isGiven ? $0 : nil }) {
        guard let value = state.value else { throw ControlQueueClosed() }
        return value
      }
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&entry, 1, 1000)
    }
  }
}

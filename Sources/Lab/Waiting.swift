/// Waits until `condition` holds, looking every `interval`. Throws `LabError.timedOut` naming `what` when it does not
/// within `timeout`; an error of the condition itself ends the wait at once.
public func waitUntil(
  _ what: String, timeout: Duration = .seconds(10), every interval: Duration = .milliseconds(20),
  _ condition: () throws -> Bool
) throws {
  let deadline = Deadline(after: timeout)
  while true {
    if try condition() { return }
    Interruption.holdIfInterrupted()
    if deadline.hasPassed { throw LabError.timedOut(what: what, after: timeout) }
    pause(interval)
  }
}

/// Waits until `body` gives a value, as `waitUntil` does.
public func waitFor<T>(
  _ what: String, timeout: Duration = .seconds(10), every interval: Duration = .milliseconds(20),
  _ body: () throws -> T?
) throws -> T {
  var value: T?
  try waitUntil(what, timeout: timeout, every: interval) {
    value = try body()
    return value != nil
  }
  return value!
}

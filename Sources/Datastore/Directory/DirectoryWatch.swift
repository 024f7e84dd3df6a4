import Model
import Synchronization

extension ManifestDirectory {
  /// How a directory is watched.
  public struct WatchOptions: Sendable {
    /// How long a file and the directory must have been quiet before they count: tools write a file in several steps.
    /// What is never quiet is looked at after ten times this.
    public var debounce: Duration
    /// How often to look when nothing is reported: for what inotify cannot see, such as changes made by another machine
    /// on a network file system or behind a symbolic link to a file elsewhere.
    public var rescanInterval: Duration

    public init(debounce: Duration = .milliseconds(50), rescanInterval: Duration = .seconds(30)) {
      self.debounce = debounce
      self.rescanInterval = rescanInterval
    }
  }

  /// Looks at the directory whenever it changes, on a thread of its own, and hands on each update that is not empty;
  /// also what changed since the last look before the watch began. Throws where the system has no watches left.
  ///
  /// The watch ends with ``DirectoryWatch/stop()`` or with the last reference to it.
  public func watch(
    options: WatchOptions = WatchOptions(), onUpdate: @escaping @Sendable (Update) -> Void
  ) throws(ManifestError) -> DirectoryWatch {
    do {
      return try DirectoryWatch(self, options: options, onUpdate: onUpdate)
    } catch {
      throw ManifestError(
        file: path,
        message: "cannot watch the directory: \(error); raise the limits fs.inotify.max_user_instances and"
          + " fs.file-max with sysctl, or stop other programs that watch files")
    }
  }
}

/// A running watch of a directory.
public final class DirectoryWatch: Sendable {
  private let alarm: Alarm
  private let thread: Mutex<Thread?>

  fileprivate init(
    _ directory: ManifestDirectory, options: ManifestDirectory.WatchOptions,
    onUpdate: @escaping @Sendable (Update) -> Void
  ) throws(SystemError) {
    let inotify = try Inotify()
    do { alarm = try Alarm() } catch {
      inotify.close()
      throw error
    }
    var loop = WatchLoop(directory: directory, options: options, onUpdate: onUpdate, inotify: inotify, alarm: alarm)
    // The watches are there when this returns: no later change can be missed.
    loop.followFolders()
    let started = loop
    do {
      thread = Mutex(
        try Thread(named: "kalsae-watch") {
          var loop = started
          loop.run()
        })
    } catch {
      inotify.close()
      alarm.close()
      throw error
    }
  }

  /// Ends the watch. When this returns no update is being handed on and none will be, unless it is called from within
  /// the handler itself. Calling it again does nothing.
  public func stop() {
    guard let thread = thread.withLock({ $0.take() }) else { return }
    // The thread closes the descriptors when it ends, and it ends only after this.
    alarm.ring()
    // A handler cannot wait for the thread that it runs on.
    if thread.isCurrent { thread.detach() } else { thread.join() }
  }

  deinit { stop() }
}

/// What the thread does.
private struct WatchLoop: Sendable {
  let directory: ManifestDirectory
  let options: ManifestDirectory.WatchOptions
  let onUpdate: @Sendable (Update) -> Void
  let inotify: Inotify
  let alarm: Alarm
  /// The numbers of the watches by the directories that they are on.
  private var watches: [String: Int32] = [:]

  init(
    directory: ManifestDirectory, options: ManifestDirectory.WatchOptions,
    onUpdate: @escaping @Sendable (Update) -> Void, inotify: Inotify, alarm: Alarm
  ) {
    self.directory = directory
    self.options = options
    self.onUpdate = onUpdate
    self.inotify = inotify
    self.alarm = alarm
  }

  mutating func run() {
    defer {
      inotify.close()
      alarm.close()
    }
    let clock = ContinuousClock()
    var pendingSince: ContinuousClock.Instant?
    while true {
      let isOverdue = pendingSince.map { clock.now - $0 > options.debounce * 10 } ?? false
      let isPending = look(minimumAge: isOverdue ? .zero : options.debounce)
      pendingSince = isPending ? pendingSince ?? clock.now : nil
      let time = isPending ? Int(options.debounce.milliseconds) + 1 : waitingTime
      switch inotify.wait(orFor: alarm, milliseconds: time) {
      case .stop: return
      case .timeout: break
      case .change: if !settle() { return }
      }
    }
  }

  /// A directory that is gone cannot tell of its return: it is looked for again soon.
  private var waitingTime: Int {
    let interval = Int(options.rescanInterval.milliseconds)
    return watches[directory.path] == nil ? min(interval, 250) : interval
  }

  /// Waits until it has been quiet for a while. False when the watch is to end.
  private func settle() -> Bool {
    let clock = ContinuousClock()
    let deadline = clock.now + options.debounce * 10
    while clock.now < deadline {
      inotify.drain()
      switch inotify.wait(orFor: alarm, milliseconds: Int(options.debounce.milliseconds)) {
      case .stop: return false
      case .timeout: return true
      case .change: break
      }
    }
    return true
  }

  /// True where some files are too young to be read.
  private mutating func look(minimumAge: Duration) -> Bool {
    inotify.drain()
    var isPending = false
    // A folder that appeared between the look and its watch has to be looked at once more.
    for _ in 0..<4 {
      let result = directory.refresh(minimumAge: minimumAge)
      isPending = result.isPending
      if !result.update.isEmpty { onUpdate(result.update) }
      if !followFolders() { break }
    }
    return isPending
  }

  /// Watches the directory and its subfolders as they are now. True where one was not watched before.
  @discardableResult
  mutating func followFolders() -> Bool {
    var current: [String: Int32] = [:]
    for path in [directory.path] + directory.folders.map({ join(directory.path, $0) }) {
      // One that cannot be watched (it is gone, or there are no watches left) is looked at by the clock.
      if let watch = try? inotify.watch(path) { current[path] = watch }
    }
    let before = Set(watches.values)
    let now = Set(current.values)
    for watch in before.subtracting(now) { inotify.unwatch(watch) }
    watches = current
    return !now.isSubset(of: before)
  }
}

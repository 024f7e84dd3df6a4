/// The ports that a worker sends by, at their places in the tables.
public struct PortSet: ~Copyable {
  private(set) var ports: [(any Port)?] = []

  public init() {}

  public var count: Int { ports.count }

  public subscript(_ index: PortIndex) -> (any Port)? {
    get { Int(index.rawValue) < ports.count ? ports[Int(index.rawValue)] : nil }
    set {
      while ports.count <= Int(index.rawValue) { ports.append(nil) }
      ports[Int(index.rawValue)] = newValue
    }
  }
}

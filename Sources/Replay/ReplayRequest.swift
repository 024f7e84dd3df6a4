import Addresses

/// What is to be replayed, and what is to become of the result.
public struct ReplayRequest: Sendable {
  /// A capture and the port that it comes in by.
  public struct Input: Sendable, Equatable {
    /// Nil: the underlay, or without a state a wire named by the file.
    public var port: String?
    public var path: String

    public init(port: String? = nil, path: String) {
      self.port = port
      self.path = path
    }

    /// Reads `[NAME=]PATH`. A path with a `=` in it is written `NAME=PATH` or `./PATH`.
    public init(_ text: String) {
      guard let equals = text.firstIndex(of: "="), text[..<equals] != "", !text.hasPrefix("."), !text.hasPrefix("/")
      else {
        self.init(path: text)
        return
      }
      self.init(port: String(text[..<equals]), path: String(text[text.index(after: equals)...]))
    }
  }

  public var inputs: [Input]
  /// The directory of manifests; nil: no state.
  public var stateDirectory: String?
  public var node: String?
  /// Ethernet addresses by port, where the state's do not fit the capture.
  public var macs: [String: MACAddress] = [:]
  /// One file for everything that is sent.
  public var outputFile: String?
  /// A directory for one file a port, and `counters.json`.
  public var outputDirectory: String?
  /// A directory that holds what is expected.
  public var expectedDirectory: String?
  /// The most flows of each family; nil: as configured.
  public var flowLimit: Int?
  /// The number of flows in the report.
  public var flowsShown = 10

  public init(inputs: [Input], stateDirectory: String? = nil, node: String? = nil) {
    self.inputs = inputs
    self.stateDirectory = stateDirectory
    self.node = node
  }
}

/// How far a replay has come.
public struct ReplayProgress: Sendable {
  public var packets: UInt64
  /// Octets of the files read so far, and of all of them; 0: not known.
  public var position: Int64
  public var size: Int64
}

import Addresses
import Lab
import Testing

/// Servers and clients with ordinary sockets, for tests of services.
///
/// A server tells every client the server's name and the client's address and port, as it sees them.
enum ServicePeer {
  static let script = """
    import hashlib, select, socket, sys, time
    KINDS = {'TCP': (socket.SOCK_STREAM, 6), 'UDP': (socket.SOCK_DGRAM, 17), 'SCTP': (socket.SOCK_STREAM, 132)}
    def make(kind, address):
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        return socket.socket(family, *KINDS[kind])
    def plain(address):
        return address[7:] if address.startswith('::ffff:') else address
    def serve(name, port):
        listeners, open_ = {}, {}
        for kind in KINDS:
            try: s = make(kind, '::')
            except OSError: continue
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind != 'UDP':
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            s.bind(('::', port))
            if kind != 'UDP': s.listen(64)
            listeners[s] = kind
        print('ready', flush=True)
        while True:
            for s in select.select(list(listeners) + list(open_), [], [])[0]:
                if s in open_:
                    try: data = s.recv(65536)
                    except OSError: data = b''
                    if not data:
                        del open_[s]; s.close()
                    else: s.sendall(data)
                elif listeners[s] == 'UDP':
                    data, peer = s.recvfrom(65536)
                    s.sendto(('%s %s %d' % (name, plain(peer[0]), peer[1])).encode(), peer)
                else:
                    c, peer = s.accept()
                    c.sendall(('%s %s %d\\n' % (name, plain(peer[0]), peer[1])).encode())
                    open_[c] = True
    def ask(kind, address, port, wait=3.0):
        s = make(kind, address); s.settimeout(wait)
        try:
            s.connect((address, port))
            if kind == 'UDP': s.send(b'who')
            return s.recv(200).decode().strip()
        except ConnectionRefusedError: return 'refused'
        except (TimeoutError, socket.timeout): return 'timeout'
        except OSError as e: return 'error %s' % e
        finally: s.close()
    def flow(address, port, seconds):
        s = make('UDP', address); s.settimeout(1); s.connect((address, port))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            s.send(b'who')
            try: answer = s.recv(200).decode()
            except OSError as e: answer = 'lost'
            print(answer, flush=True)
            time.sleep(0.02)
    def stream(address, port, seconds):
        s = make('TCP', address); s.settimeout(20); s.connect((address, port))
        hello = b''
        while not hello.endswith(b'\\n'): hello += s.recv(1)
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            block = hashlib.sha256(str(number).encode()).digest() * 1024
            s.sendall(block)
            got = b''
            while len(got) < len(block):
                part = s.recv(len(block) - len(got))
                if not part: sys.exit('closed after %d blocks' % number)
                got += part
            if got != block: sys.exit('block %d differs' % number)
            number += 1
        print('intact %d' % number, flush=True)
    what, rest = sys.argv[1], sys.argv[2:]
    if what == 'serve': serve(rest[0], int(rest[1]))
    elif what == 'flow': flow(rest[0], int(rest[1]), float(rest[2]))
    elif what == 'stream': stream(rest[0], int(rest[1]), float(rest[2]))
    else:
        for _ in range(int(rest[3]) if len(rest) > 3 else 1): print(ask(rest[0], rest[1], int(rest[2])), flush=True)
    """

  /// Starts a server for all protocols that the kernel has, and waits until it listens.
  @discardableResult
  static func serve(_ name: String, in namespace: Namespace, port: Int = 8080) throws -> Child {
    let child = try namespace.spawn(["python3", "-c", script, "serve", name, "\(port)"])
    try waitUntil("server \(name) to listen") { child.standardOutput.contains("ready") }
    return child
  }

  /// What clients, one after the other, are told: lines of name, address and port; `refused` or `timeout`.
  static func ask(
    _ namespace: Namespace, _ address: IPAddress, _ port: Int, _ transport: String = "TCP", count: Int = 1
  ) throws -> [String] {
    try namespace.run(
      ["python3", "-c", script, "ask", transport, "\(address)", "\(port)", "\(count)"], timeout: .seconds(60)
    ).check().standardOutput.split(separator: "\n").map(String.init)
  }

  /// The names of the servers that answered clients, one after the other.
  static func names(
    _ namespace: Namespace, _ address: IPAddress, _ port: Int, _ transport: String = "TCP", count: Int = 12
  ) throws -> Set<String> {
    Set(try ask(namespace, address, port, transport, count: count).map { String($0.prefix { $0 != " " }) })
  }

  /// A client that sends datagrams from one socket and prints who answers each.
  static func flow(_ namespace: Namespace, _ address: IPAddress, _ port: Int, seconds: Int) throws -> Child {
    try namespace.spawn(["python3", "-c", script, "flow", "\(address)", "\(port)", "\(seconds)"])
  }

  /// A client that sends over one TCP connection, and compares what comes back octet by octet.
  static func stream(_ namespace: Namespace, _ address: IPAddress, _ port: Int, seconds: Int) throws -> Child {
    try namespace.spawn(["python3", "-c", script, "stream", "\(address)", "\(port)", "\(seconds)"])
  }

  /// Whether the kernel has SCTP.
  static let hasSCTP: Bool = {
    guard let lab = try? Lab(name: "sctp") else { return false }
    defer { lab.cleanUp() }
    let result = try? lab.runUnchecked([
      "python3", "-c", "import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)",
    ])
    return result?.isSuccess == true
  }()
}

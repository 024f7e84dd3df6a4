/// A part of Kalsae that is given arbitrary octets. It must neither stop nor read beyond them, whatever they are.
public protocol FuzzTarget: AnyObject {
  func run(_ input: UnsafeRawBufferPointer)
}

/// What gets the input; each program sets it in `LLVMFuzzerInitialize`. libFuzzer has one thread, and its own `main`.
nonisolated(unsafe) public var fuzzTarget: (any FuzzTarget)?

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
  unsafe fuzzTarget?.run(UnsafeRawBufferPointer(start: data, count: size))
  return 0
}

import FuzzEntry

// A program of its own: after every input libFuzzer looks at the counters of all code in the program, which for a
// parser takes longer than the parser.

@_cdecl("LLVMFuzzerInitialize")
public func initialize(_ count: UnsafeMutableRawPointer, _ arguments: UnsafeMutableRawPointer) -> CInt {
  unsafe fuzzTarget = WireTarget()
  return 0
}

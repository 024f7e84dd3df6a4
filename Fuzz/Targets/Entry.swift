import CFuzz
import Glibc

// The fuzz targets, one program for all: KALSAE_FUZZ_TARGET says which, everything else is libFuzzer's command line and
// libFuzzer's main. `tools/fuzz` builds it and runs all of them.

/// A part of Kalsae that is given arbitrary octets. It must neither stop nor read beyond them, whatever they are.
protocol FuzzTarget: AnyObject {
  func run(_ input: UnsafeRawBufferPointer)
}

/// libFuzzer has one thread.
nonisolated(unsafe) private var target: any FuzzTarget = WireTarget()

@_cdecl("LLVMFuzzerInitialize")
public func initialize(_ count: UnsafeMutableRawPointer, _ arguments: UnsafeMutableRawPointer) -> CInt {
  switch unsafe getenv("KALSAE_FUZZ_TARGET").map({ unsafe String(cString: $0) }) {
  case "wire": unsafe target = WireTarget()
  case "pipeline": unsafe target = PipelineTarget()
  case "capture": unsafe target = CaptureTarget()
  case "manifests": unsafe target = ManifestTarget()
  default:
    unsafe kalsae_complain("KALSAE_FUZZ_TARGET is one of wire, pipeline, capture, manifests")
    exit(64)
  }
  return 0
}

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
  unsafe target.run(UnsafeRawBufferPointer(start: data, count: size))
  return 0
}

import CFuzz
import FuzzEntry
import Glibc

// What needs more than the packet library, one program for all: KALSAE_FUZZ_TARGET says which, everything else is
// libFuzzer's command line. `tools/fuzz` builds it and runs all of them.

@_cdecl("LLVMFuzzerInitialize")
public func initialize(_ count: UnsafeMutableRawPointer, _ arguments: UnsafeMutableRawPointer) -> CInt {
  switch unsafe getenv("KALSAE_FUZZ_TARGET").map({ unsafe String(cString: $0) }) {
  case "pipeline": unsafe fuzzTarget = PipelineTarget()
  case "capture": unsafe fuzzTarget = CaptureTarget()
  case "manifests": unsafe fuzzTarget = ManifestTarget()
  default:
    unsafe kalsae_complain("KALSAE_FUZZ_TARGET is one of pipeline, capture, manifests")
    exit(64)
  }
  return 0
}

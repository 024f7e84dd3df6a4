// swift-tools-version: 6.2
import PackageDescription

/// Swift 6 language mode everywhere; every use of unsafe code is spelled `unsafe` and nothing may warn.
let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableExperimentalFeature("Lifetimes"),
  .enableUpcomingFeature("ExistentialAny"),
  .strictMemorySafety(),
  .treatAllWarnings(as: .error),
]

let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let grdb: Target.Dependency = .product(name: "GRDB", package: "GRDB.swift")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")

/// What is started for every pod carries its libraries with it: half a millisecond instead of two. Sanitizers cannot be
/// linked that way (`make sanitize`). No test may depend on the target: it would be linked so too. They find the program
/// where the products are built.
let selfContained: [LinkerSetting] =
  Context.environment["KALSAE_DYNAMIC"] == nil ? [.unsafeFlags(["-static-executable"])] : []

/// What stands for AVX-512 in tests makes do with AVX2.
#if arch(x86_64)
  let vectorFlags = ["-mavx2", "-mbmi", "-mbmi2", "-O1", "-Wno-psabi"]
#else
  let vectorFlags: [String] = []
#endif

let package = Package(
  name: "kalsae",
  products: [
    .executable(name: "kalsae", targets: ["kalsae"]),
    .executable(name: "kalsae-cni", targets: ["kalsae-cni"]),
    .executable(name: "kalsae-ipam", targets: ["kalsae-ipam"]),
    .library(name: "Dataplane", targets: ["Dataplane"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
    .package(url: "https://github.com/swhitty/FlyingFox", from: "0.27.1"),
  ],
  targets: [
    // Module maps and `static inline` shims.
    .target(name: "CDataplane"),
    .target(name: "CLinux"),
    .systemLibrary(name: "CNetlink", pkgConfig: "libnl-3.0", providers: [.apt(["libnl-3-dev"])]),
    .systemLibrary(name: "CPcap", pkgConfig: "libpcap", providers: [.apt(["libpcap-dev"])]),

    // The programs for the kernel's virtual machine: compiled from bpf/ and embedded when the package is built.
    .target(name: "CEBPF", dependencies: ["CLinux"], linkerSettings: [.linkedLibrary("bpf")]),
    .executableTarget(name: "embed-bpf", swiftSettings: [.swiftLanguageMode(.v6), .treatAllWarnings(as: .error)]),
    .plugin(name: "EmbedBPF", capability: .buildTool(), dependencies: ["embed-bpf"]),

    // The vocabulary that every room shares.
    .target(name: "Addresses", swiftSettings: strict),

    // The hot path: one module, because the optimiser stops at module walls.
    .target(name: "Dataplane", dependencies: ["Addresses", "CDataplane"], swiftSettings: strict),
    .target(
      name: "Ports", dependencies: ["Addresses", "Dataplane", "CDataplane", "CLinux", "CPcap"], swiftSettings: strict),

    // Desired state.
    .target(name: "Model", dependencies: ["Addresses"], swiftSettings: strict),
    .target(name: "Datastore", dependencies: ["Model", "CLinux", "Yams"], swiftSettings: strict),
    .target(name: "Compiler", dependencies: ["Model", "Dataplane", "Addresses"], swiftSettings: strict),

    .target(
      name: "Replay", dependencies: ["Datastore", "Compiler", "Ports", "Model", "Dataplane", "Addresses"],
      swiftSettings: strict),

    .target(
      name: "EBPF", dependencies: ["Dataplane", "Addresses", "CEBPF"], swiftSettings: strict, plugins: ["EmbedBPF"]),

    // The machine.
    .target(name: "Node", dependencies: ["Addresses", "CNetlink", "CLinux"], swiftSettings: strict),
    .target(name: "IPAM", dependencies: ["Model", "CNI", "Addresses", "CLinux", grdb], swiftSettings: strict),
    // The address management alone, for other CNI plugins.
    .executableTarget(name: "kalsae-ipam", dependencies: ["IPAM", "CNI", "Datastore", "Model"], swiftSettings: strict),
    .target(
      name: "Agent",
      dependencies: [
        "Dataplane", "Model", "Addresses",
        "Datastore", "Compiler", "Node", "IPAM", "CNI", "Ports", "EBPF", "CLinux", logging,
        .product(name: "FlyingFox", package: "FlyingFox"), .product(name: "FlyingSocks", package: "FlyingFox"),
      ], swiftSettings: strict),
    // The plugin protocol, and the plugin.
    .target(name: "CNI", dependencies: ["Addresses"], swiftSettings: strict),
    .executableTarget(
      name: "kalsae-cni", dependencies: ["CNI", "CLinux"], swiftSettings: strict, linkerSettings: selfContained),
    .target(
      name: "Bench",
      dependencies: ["Dataplane", "Model", "Addresses", "Compiler", "Ports", "EBPF", "IPAM", "Lab", "CLinux"],
      swiftSettings: strict),
    .target(name: "Lab", dependencies: ["Addresses", "CLinux"], swiftSettings: strict),
    .executableTarget(name: "lab-probe", dependencies: ["Lab"], swiftSettings: strict),
    .executableTarget(
      name: "kalsae",
      dependencies: [
        "Model", "Addresses", "Agent", "EBPF", "Bench", "CNI", "IPAM", "Replay", "Lab", "CLinux", "Yams",
        argumentParser,
      ],
      swiftSettings: strict),

    .testTarget(name: "AddressesTests", dependencies: ["Addresses"], swiftSettings: strict),
    // The fast path's code for AVX-512 where the processor has none.
    .target(
      name: "CEmulatedVectors", dependencies: ["CDataplane"], path: "Tests/Support/CEmulatedVectors",
      cSettings: [.headerSearchPath("."), .unsafeFlags(vectorFlags)]),
    .testTarget(
      name: "DataplaneTests",
      dependencies: ["Dataplane", "CDataplane", "CEmulatedVectors", "Addresses", "Ports", "EBPF", "Lab"],
      swiftSettings: strict),
    .testTarget(
      name: "PortsTests", dependencies: ["CLinux", "Dataplane", "Addresses", "EBPF", "Ports", "Lab"],
      swiftSettings: strict),
    .testTarget(
      name: "EBPFTests", dependencies: ["EBPF", "CEBPF", "Dataplane", "Addresses", "Lab", "Reference"],
      swiftSettings: strict),
    .testTarget(
      name: "NodeTests", dependencies: ["CEBPF", "EBPF", "CLinux", "Dataplane", "Addresses", "Node", "Ports", "Lab"],
      swiftSettings: strict),
    .testTarget(
      name: "AgentTests",
      dependencies: ["Dataplane", "Model", "Addresses", "Agent", "Compiler", "Node", "CNI", "IPAM", "Lab", "Ports"],
      swiftSettings: strict),
    .testTarget(name: "CNITests", dependencies: ["CNI", "Addresses", "Lab"], swiftSettings: strict),
    .testTarget(
      name: "ModelTests", dependencies: ["Addresses", "Model", "Datastore", "Reference"], swiftSettings: strict),
    .testTarget(
      name: "IPAMTests", dependencies: ["IPAM", "CNI", "Lab", "Model", "Addresses", "kalsae", "kalsae-ipam"],
      swiftSettings: strict),
    .testTarget(name: "DatastoreTests", dependencies: ["Model", "Datastore"], swiftSettings: strict),
    // What the rules say of services and policies, slowly and obviously; the compiled tables are held against it.
    .target(
      name: "Reference", dependencies: ["Addresses", "Model"], path: "Tests/Support/Reference", swiftSettings: strict),
    .testTarget(name: "ReferenceTests", dependencies: ["Addresses", "Reference", "Model"], swiftSettings: strict),
    .testTarget(
      name: "CompilerTests", dependencies: ["Compiler", "Dataplane", "Ports", "Model", "Addresses", "Reference"],
      swiftSettings: strict),
    .testTarget(name: "BenchTests", dependencies: ["Bench"], swiftSettings: strict),
    .testTarget(
      name: "ReplayTests", dependencies: ["Dataplane", "Model", "Addresses", "Replay", "kalsae"],
      swiftSettings: strict),
    // What only means something optimised: what the optimiser leaves is counted. Nothing here may need `@testable`, so that
    // it stands on the release as users build it.
    .testTarget(
      name: "ReleaseTests", dependencies: ["Bench", "kalsae", "allocation-probe"], swiftSettings: strict),
    .target(name: "CCounting", path: "Tests/Support/CCounting"),
    .executableTarget(
      name: "allocation-probe",
      dependencies: ["Compiler", "Ports", "Model", "Dataplane", "Addresses", "CCounting", "Replay"],
      path: "Tests/Support/allocation-probe",
      swiftSettings: strict),
    .testTarget(
      name: "LiveTests", dependencies: ["Lab", "Addresses", "CNI", "Ports", "lab-probe", "kalsae"],
      swiftSettings: strict),
  ]
)

// The other tests need `@testable`, which a release has not: `tools/run-tests` leaves them out there.
if Context.environment["KALSAE_RELEASE_TESTS"] != nil {
  package.targets.removeAll { $0.isTest && $0.name != "ReleaseTests" }
}

// Only where libFuzzer is asked for: `tools/fuzz`.
if Context.environment["KALSAE_FUZZ"] != nil {
  package.targets += [
    .target(name: "CFuzz", path: "Fuzz/CFuzz"),
    .target(name: "FuzzEntry", path: "Fuzz/Entry", swiftSettings: strict),
    .executableTarget(
      name: "kalsae-fuzz-wire", dependencies: ["FuzzEntry", "Dataplane", "Addresses"], path: "Fuzz/Wire",
      swiftSettings: strict),
    .executableTarget(
      name: "kalsae-fuzz",
      dependencies: ["FuzzEntry", "CFuzz", "Replay", "Datastore", "Ports", "Dataplane", "Addresses"],
      path: "Fuzz/Targets", swiftSettings: strict),
  ]
}

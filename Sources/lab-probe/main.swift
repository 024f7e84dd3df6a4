// Stands for any program that has a lab, for the tests of what happens to the lab when that program ends.
//
//   lab-probe stand [stubborn]  makes a lab, prints its namespaces, and waits for ever
//   lab-probe throw             makes a lab and fails
//   lab-probe exit              makes a lab and exits without cleaning up
//   lab-probe collect           takes away what labs of dead processes have left, and prints the namespaces

import Glibc
import Lab

func makeLab() throws -> Lab {
  let lab = try Lab(name: "probe")
  let (a, b) = (try lab.namespace("a"), try lab.namespace("b"))
  try lab.veth(Endpoint(a, "eth0", addresses: ["10.0.0.1/24"]), Endpoint(b, "eth0", addresses: ["10.0.0.2/24"]))
  _ = try lab.directory()
  // One that ends when told, one that leaves its process group, and on request one that does not listen.
  _ = try a.spawn("sleep", "600")
  if CommandLine.arguments.last == "stubborn" {
    _ = try a.spawn("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
  }
  _ = try b.spawn("setsid", "sh", "-c", "sleep 600 & wait")
  print(a.name, b.name)
  fflush(nil)
  return lab
}

struct Refusal: Error {}

func fail() throws {
  let lab = try makeLab()
  defer { lab.cleanUp() }
  throw Refusal()
}

switch CommandLine.arguments.dropFirst().first {
case "stand":
  let lab = try makeLab()
  withExtendedLifetime(lab) { Interruption.wait() }
case "throw":
  do { try fail() } catch is Refusal { exit(3) }
case "exit":
  let lab = try makeLab()
  withExtendedLifetime(lab) { exit(4) }
case "collect":
  for name in Lab.collectLeftovers() { print(name) }
default:
  print("usage: lab-probe stand [stubborn] | throw | exit | collect")
  exit(64)
}

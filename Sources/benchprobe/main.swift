import Bench
import Model

let arguments = CommandLine.arguments
let flows = Int(arguments[1])!
let modes: [String: IPPool.Tunnel?] = ["forward": nil, "ipip": .ipip, "vxlan": .vxlan, "gre": .gre, "forward6": nil]
for name in arguments[3...] {
  let r = PipelineBench.run(
    flows: flows, routes: 1000, mode: modes[name]!, name: name, isIPv6: name == "forward6", windows: Int(arguments[2])!)
  print(r.name, r.flows, r.nsMin, r.nsMedian)
}

import Bench
import Model
for flows in [1, 10_000, 100_000, 1_000_000] {
  for (name, mode) in [("forward", nil), ("ipip", .ipip), ("vxlan", .vxlan), ("gre", .gre)] as [(String, IPPool.Tunnel?)] {
    let r = PipelineBench.run(flows: flows, routes: 1000, mode: mode, name: name)
    print(r.name, r.flows, r.nsMin, r.nsMedian)
  }
  let r = PipelineBench.run(flows: flows, routes: 1000, mode: nil, name: "forward6", isIPv6: true)
  print(r.name, r.flows, r.nsMin, r.nsMedian)
}

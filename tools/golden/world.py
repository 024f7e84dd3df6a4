"""The small cluster that the golden cases live in, its frames, and what the data plane must make of them.

Everything here is computed with scapy from the protocols' definitions: it shares no code with Kalsae, so that it can
judge what Kalsae sends.
"""

import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

__all__ = ["ARP", "Dot1AD", "Dot1Q", "Ether", "GRE", "ICMP", "ICMPv6EchoRequest", "IP", "IPv6", "Raw", "SCTP",
           "SCTPChunkInit", "TCP", "UDP", "VXLAN"]

START = 1_700_000_000 * 10**9


def derived_mac(name):
    """A locally administered address from a name: FNV-1a folded into 46 bits."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    value ^= value >> 32
    value = value & 0xFFFFFFFFFFFF & ~(3 << 40) | 2 << 40
    return ":".join(f"{value >> shift & 0xFF:02x}" for shift in range(40, -8, -8))


def pod_mac(address):
    return "0a:58:" + ":".join(f"{int(part):02x}" for part in address.split("."))


GATEWAY_MAC = "ee:ee:ee:ee:ee:ee"
GATEWAY6 = "fe80::ecee:eeff:feee:eeee"
NODES = {
    "node-a": ("10.0.0.1", "fd00:10::1"),
    "node-b": ("10.0.0.2", "fd00:10::2"),
    # In another subnet.
    "node-c": ("10.9.0.3", "fd00:19::3"),
}
PODS = {  # name: node, IPv4, IPv6
    "a": ("node-a", "10.244.0.5", "fd00:244::5"),
    "a2": ("node-a", "10.244.0.6", "fd00:244::6"),
    "b": ("node-b", "10.244.1.7", "fd00:244:0:1::7"),
    "c": ("node-c", "10.244.2.9", "fd00:244:0:2::9"),
}
MAC = {name: derived_mac(name) for name in NODES}
HOST_MAC = derived_mac("node-a/host")


def pod4(name):
    return PODS[name][1]


def pod6(name):
    return PODS[name][2]


def manifests(mode="Never", tunnel="vxlan", configuration=""):
    """The cluster as manifests. `tunnel` and `mode` are those of both pools."""
    parts = []
    for number, (name, (v4, v6)) in enumerate(NODES.items()):
        block6 = "fd00:244::/64" if number == 0 else f"fd00:244:0:{number}::/64"
        parts.append(f"""apiVersion: v1
kind: Node
metadata:
  name: {name}
  annotations:
    projectcalico.org/IPv4Address: {v4}/24
    projectcalico.org/IPv6Address: {v6}/64
spec:
  podCIDRs: [10.244.{number}.0/24, "{block6}"]
status:
  addresses:
  - {{type: InternalIP, address: {v4}}}
  - {{type: InternalIP, address: "{v6}"}}
""")
    for name, cidr in (("pods4", "10.244.0.0/16"), ("pods6", "fd00:244::/48")):
        parts.append(f"""apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{name: {name}}}
spec:
  cidr: "{cidr}"
  {tunnel}Mode: {mode}
""")
    for name, (node, v4, v6) in PODS.items():
        parts.append(f"""apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  nodeName: {node}
  containers: [{{name: main}}]
status:
  phase: Running
  podIPs: [{{ip: {v4}}}, {{ip: "{v6}"}}]
""")
    if configuration:
        parts.append("apiVersion: kalsae.io/v1alpha1\nkind: NodeConfiguration\nmetadata: {name: default}\nspec:\n"
                     + "".join(f"  {line}\n" for line in configuration.strip().splitlines()))
    return "---\n".join(parts)


# --- captures -------------------------------------------------------------------------------------------------------

def write_pcap(path, packets):
    """`packets`: (nanoseconds, octets, length on the wire)."""
    with open(path, "wb") as stream:
        stream.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        for time, octets, length in packets:
            stream.write(struct.pack("<IIII", time // 10**9, time % 10**9, len(octets), length) + octets)


def read_pcap(path):
    data = open(path, "rb").read()
    magic, = struct.unpack_from("<I", data)
    if magic != 0xA1B23C4D:
        raise ValueError(f"{path}: not a little-endian pcap with nanoseconds")
    packets, offset = [], 24
    while offset < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("<IIII", data, offset)
        offset += 16
        packets.append((seconds * 10**9 + nanoseconds, data[offset:offset + kept], length))
        offset += kept
    return packets


# --- frames ---------------------------------------------------------------------------------------------------------

def from_pod(name, packet, **ether):
    """As a pod of node-a sends it."""
    return Ether(**{"dst": GATEWAY_MAC, "src": pod_mac(pod4(name)), **ether}) / packet


def to_pod(name, packet):
    """As a pod of node-a receives it."""
    return Ether(dst=pod_mac(pod4(name)), src=GATEWAY_MAC) / packet


def from_node(name, packet, **ether):
    """As it comes in by the underlay of node-a."""
    return Ether(**{"dst": MAC["node-a"], "src": MAC[name], **ether}) / packet


def to_node(name, packet):
    """As it leaves by the underlay of node-a."""
    return Ether(dst=MAC[name], src=MAC["node-a"]) / packet


def to_host(packet):
    return Ether(dst=HOST_MAC, src=GATEWAY_MAC) / packet


def routed(packet, by=1):
    """The packet after `by` routers."""
    copy = packet.copy()
    if IPv6 in copy:
        copy[IPv6].hlim -= by
    else:
        copy[IP].ttl -= by
        del copy[IP].chksum
    return copy


def transports(version, source, destination, payload=b"kalsae", **ip):
    """One packet of each transport."""
    if version == 4:
        header = IP(src=source, dst=destination, **{"flags": "DF", "id": 0, "ttl": 64, **ip})
        echo = ICMP(type=8, id=7, seq=1)
    else:
        header = IPv6(src=source, dst=destination, **{"hlim": 64, **ip})
        echo = ICMPv6EchoRequest(id=7, seq=1)
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    return [
        header / TCP(sport=40000, dport=80, flags="S", seq=1000, options=options),
        header / UDP(sport=40001, dport=9) / Raw(payload),
        header / SCTP(sport=40002, dport=3868) / SCTPChunkInit(init_tag=1, a_rwnd=65536, n_out_streams=1,
                                                               n_in_streams=1, init_tsn=1),
        header / echo / Raw(payload),
    ]


def encapsulate(kind, inner, local, remote, sent=None, *, own="node-a", peer="node-b", vni=4096, port=None, key=None,
                checksum=False, sequence=None, udp_checksum=None, ttl=64, tos=None, identification=None):
    """`inner` (IP or IPv6) in a tunnel between two addresses, without Ethernet header.

    What the sender is free to choose is taken from `sent`, the octets of a sent packet from its outer IP header on,
    after it was found to be in its range: the UDP source port, the flow label, the identification of a packet that may
    be cut."""
    is6 = ":" in local
    inner_is6 = IPv6 in inner
    inner_tos = inner[IPv6].tc if inner_is6 else inner[IP].tos
    dont_fragment = inner_is6 or "DF" in str(inner[IP].flags)
    if is6:
        label = int.from_bytes(sent[1:4], "big") & 0xFFFFF if sent else 0
        outer = IPv6(src=local, dst=remote, hlim=ttl, tc=inner_tos if tos is None else tos, fl=label)
    else:
        if identification is None:
            identification = 0 if dont_fragment or not sent else int.from_bytes(sent[4:6], "big")
        outer = IP(src=local, dst=remote, ttl=ttl, tos=inner_tos if tos is None else tos, id=identification,
                   flags="DF" if dont_fragment else 0)
    type_ = 0x86DD if inner_is6 else 0x0800
    if kind == "ipip":
        if is6:
            outer.nh = 41 if inner_is6 else 4
        else:
            outer.proto = 41 if inner_is6 else 4
        return outer / inner
    if kind == "gre":
        header = GRE(proto=type_)
        if checksum:
            header.chksum_present = 1
        if key is not None:
            header.key_present, header.key = 1, key
        if sequence is not None:
            header.seqnum_present, header.sequence_number = 1, sequence
        if is6:
            outer.nh = 47
        return outer / header / inner
    start = 40 if is6 else 20
    source = int.from_bytes(sent[start:start + 2], "big") if sent else 50000
    if not 49152 <= source <= 65535:
        raise AssertionError(f"UDP source port {source} is not in 49152..65535 (TUN-3)")
    udp = UDP(sport=source, dport=port or (4789 if kind == "vxlan" else 6081))
    if not (is6 if udp_checksum is None else udp_checksum):
        udp.chksum = 0
    ethernet = Ether(dst=MAC[peer], src=MAC[own]) / inner
    if kind == "vxlan":
        return outer / udp / VXLAN(flags=0x08, vni=vni) / ethernet
    return outer / udp / Raw(struct.pack("!HHI", 0, 0x6558, vni << 8) + bytes(ethernet))

"""The golden cases: what comes in, and what must become of it."""

from world import *  # noqa: F403
from world import (GATEWAY6, GATEWAY_MAC, MAC, NODES, HOST_MAC, START, derived_mac, encapsulate, from_node, from_pod,
                   manifests, pod4, pod6, pod_mac, routed, to_host, to_node, to_pod, transports)

CASES = {}


class Case:
    """One folder of Tests/Golden.

    `expected` holds, for each port, what leaves by it in order: octets, or a function that makes them from what was
    sent (for fields that the sender is free to choose); None for a port whose packets are judged by tshark alone.
    `drops` holds the drops by port and reason."""

    def __init__(self, name, text, state, arguments=""):
        self.name, self.text, self.state, self.arguments = name, text, state, arguments
        self.inputs, self.expected, self.drops = {}, {}, {}
        self.time = START
        # Where a tunnel's outer header must hold what tshark calls wrong.
        self.tshark_allows = set()

    def send(self, port, frame, wire_length=None, after=1_000_000):
        octets = bytes(frame)
        self.time += after
        self.inputs.setdefault(port, []).append((self.time, octets, wire_length or len(octets)))

    def expect(self, port, frame):
        self.expected.setdefault(port, []).append(frame if callable(frame) else bytes(frame))

    def drop(self, port, reason, count=1):
        reasons = self.drops.setdefault(port, {})
        reasons[reason] = reasons.get(reason, 0) + count

    def unjudged(self, port):
        self.expected[port] = None


def case(name, text, arguments="", **state):
    def register(function):
        def make():
            made = Case(name, " ".join(text.split()), manifests(**state), arguments)
            function(made)
            return made
        CASES[name] = make
        return function
    return register


# --- each encapsulation, both ways ----------------------------------------------------------------------------------

def both_ways(c, kind, underlay=4, **options):
    """Every transport over IPv4 and IPv6 from pod a to pod b and back."""
    local, remote = (NODES[n][0 if underlay == 4 else 1] for n in ("node-a", "node-b"))
    sequences = {4: 0, 6: 0}
    incoming = dict(options)
    for version in (4, 6):
        here, there = (pod4, pod6)[version == 6]("a"), (pod4, pod6)[version == 6]("b")
        for packet in transports(version, here, there):
            c.send("default_a", from_pod("a", packet))
            c.expect("underlay", outgoing(kind, routed(packet), local, remote, options, sequences))
        # May be cut: the outer packet may be too, and needs an identification.
        if version == 4 and kind != "none":
            packet = IP(src=here, dst=there, id=99) / UDP(sport=40009, dport=9) / Raw(b"may be cut")
            c.send("default_a", from_pod("a", packet))
            c.expect("underlay", outgoing(kind, routed(packet), local, remote, options, sequences))
        for packet in transports(version, there, here, ttl=63) if version == 4 else transports(
                version, there, here, hlim=63):
            if kind == "none":
                c.send("underlay", from_node("node-b", packet))
            else:
                if kind == "gre" and options.get("sequence") is not None:
                    incoming["sequence"] = (incoming.get("sequence") or 0) + 1
                c.send("underlay", from_node("node-b", encapsulate(
                    kind, packet, remote, local, own="node-b", peer="node-a", **incoming)))
            c.expect("default_a", to_pod("a", routed(packet)))


def outgoing(kind, packet, local, remote, options, sequences):
    if kind == "none":
        return to_node("node-b", packet)
    options = dict(options)
    if options.get("sequence") is not None:
        options["sequence"] = sequences["next"] = sequences.get("next", -1) + 1
    return lambda sent: bytes(to_node("node-b", encapsulate(kind, packet, local, remote, sent[14:], **options)))


RULES = {
    "none": "NODE-5 (no overlay), TUN-9", "ipip": "TUN-1, TUN-5, TUN-6", "gre": "TUN-2, TUN-5, TUN-6",
    "vxlan": "TUN-3, TUN-5, TUN-6, NODE-5", "geneve": "TUN-4, TUN-5, TUN-6"}
NAMES = {"ipip": "IPIP", "gre": "GRE", "vxlan": "VXLAN", "geneve": "Geneve"}

case("direct", f"""Pods of two nodes talk without an overlay: TCP, UDP, SCTP and ICMP over IPv4 and IPv6, both ways. The
     packets cross as they are, one hop older. Rules: {RULES["none"]}.""")(lambda c: both_ways(c, "none"))
for kind in NAMES:
    case(f"{kind}-over-ipv4", f"""Pods of two nodes talk through {NAMES[kind]} over IPv4: TCP, UDP, SCTP and ICMP inside,
         over IPv4 and IPv6, both ways; outer DF follows the inner one. Rules: {RULES[kind]}.""",
         tunnel=kind, mode="Always")(lambda c, kind=kind: both_ways(c, kind))
    case(f"{kind}-over-ipv6", f"""Pods of two nodes talk through {NAMES[kind]} over IPv6: TCP, UDP, SCTP and ICMP inside,
         over IPv4 and IPv6, both ways. Rules: {RULES[kind]}.""",
         tunnel=kind, mode="Always", configuration="tunnelIPFamily: IPv6")(
             lambda c, kind=kind: both_ways(c, kind, underlay=6))

case("gre-key-checksum-sequence", """GRE with all its optional fields: the key must be right, the checksum is verified, the
     sequence number counts up over both families. Rules: TUN-2 (RFC 2784, RFC 2890).""", tunnel="gre", mode="Always",
     configuration="greKey: 77\ngreChecksum: true\ngreSequence: true")(
         lambda c: both_ways(c, "gre", key=77, checksum=True, sequence=0))
case("vxlan-udp-checksum", """VXLAN over IPv4 with UDP checksums, which are computed when sent and verified when received,
     and with another port and VNI. Rules: TUN-3, TUN-9.""", tunnel="vxlan", mode="Always",
     configuration="udpTunnelChecksum: true\nvxlanPort: 8472\nvxlanVNI: 16777215")(
         lambda c: both_ways(c, "vxlan", udp_checksum=True, port=8472, vni=16777215))


@case("cross-subnet", """CrossSubnet wraps only what leaves the own subnet of the underlay: packets to node-b go as they
      are, packets to node-c go in IPIP, and both are taken back either way. Rules: NODE-5.""",
      tunnel="ipip", mode="CrossSubnet")
def cross_subnet(c):
    for packet in transports(4, pod4("a"), pod4("b")):
        c.send("default_a", from_pod("a", packet))
        c.expect("underlay", to_node("node-b", routed(packet)))
    for packet in transports(4, pod4("a"), pod4("c")):
        c.send("default_a", from_pod("a", packet))
        c.expect("underlay", to_node("node-c", encapsulate("ipip", routed(packet), "10.0.0.1", "10.9.0.3")))
    for packet in transports(4, pod4("c"), pod4("a"), ttl=60):
        c.send("underlay", from_node("node-c", encapsulate("ipip", packet, "10.9.0.3", "10.0.0.1")))
        c.expect("default_a", to_pod("a", routed(packet)))
    for packet in transports(4, pod4("b"), pod4("a"), ttl=60):
        c.send("underlay", from_node("node-b", packet))
        c.expect("default_a", to_pod("a", routed(packet)))


@case("between-pods", """Two pods of one node talk through the node: routed, not bridged, so the addresses of the link
      change and the hop count falls. What a pod sends to itself is not sent back. Rules: NODE-1, NODE-4.""")
def between_pods(c):
    for version, address in ((4, pod4), (6, pod6)):
        for packet in transports(version, address("a"), address("a2")):
            c.send("default_a", from_pod("a", packet))
            c.expect("default_a2", to_pod("a2", routed(packet)))
        packet = transports(version, address("a"), address("a"))[1]
        c.send("default_a", from_pod("a", packet))
        c.drop("default/a", "hairpin")


# --- header fields --------------------------------------------------------------------------------------------------

@case("ecn-table", """All sixteen pairs of inner and outer congestion marks come out of a tunnel as RFC 6040 has it, over
      IPv4 and IPv6: Not-ECT inside and CE outside is dropped. Going in, the mark is copied. Rules: TUN-5.""",
      tunnel="vxlan", mode="Always")
def ecn_table(c):
    for version, here, there in ((4, pod4("a"), pod4("b")), (6, pod6("a"), pod6("b"))):
        for inner in range(4):
            for outer in range(4):
                packet = transports(version, there, here)[1]
                field = "tc" if version == 6 else "tos"
                layer = packet[IPv6] if version == 6 else packet[IP]
                setattr(layer, field, 0x28 | inner)
                packet[UDP].sport = 41000 + inner * 4 + outer
                c.send("underlay", from_node("node-b", encapsulate(
                    "vxlan", packet, "10.0.0.2", "10.0.0.1", own="node-b", peer="node-a", tos=0x28 | outer)))
                # Not-ECT 0, ECT(1) 1, ECT(0) 2, CE 3: RFC 6040, figure 4.
                if inner == 0 and outer == 3:
                    c.drop("underlay", "ecnCongestion")
                    continue
                mark = inner
                if inner == 2 and outer == 1:
                    mark = 1
                elif outer == 3 and inner != 0:
                    mark = 3
                result = routed(packet)
                setattr(result[IPv6] if version == 6 else result[IP], field, 0x28 | mark)
                c.expect("default_a", to_pod("a", result))
        for mark in range(4):
            packet = transports(version, here, there)[1]
            layer = packet[IPv6] if version == 6 else packet[IP]
            setattr(layer, field, 0xB8 | mark)
            packet[UDP].sport = 42000 + mark
            c.send("default_a", from_pod("a", packet))
            c.expect("underlay", lambda sent, packet=routed(packet): bytes(to_node(
                "node-b", encapsulate("vxlan", packet, "10.0.0.1", "10.0.0.2", sent[14:]))))


def field_modes(c, pipe):
    for version, here, there in ((4, pod4("a"), pod4("b")), (6, pod6("a"), pod6("b"))):
        packet = transports(version, here, there)[1]
        layer = packet[IPv6] if version == 6 else packet[IP]
        if version == 6:
            layer.tc, layer.hlim = 0xBA, 40
        else:
            layer.tos, layer.ttl = 0xBA, 40
        c.send("default_a", from_pod("a", packet))
        options = {"tos": 26 << 2 | 2, "ttl": 33} if pipe else {"tos": 0xBA, "ttl": 39}
        c.expect("underlay", lambda sent, packet=routed(packet), options=options: bytes(to_node(
            "node-b", encapsulate("geneve", packet, "10.0.0.1", "10.0.0.2", sent[14:], **options))))
        packet = transports(version, there, here)[1]
        layer = packet[IPv6] if version == 6 else packet[IP]
        setattr(layer, "tc" if version == 6 else "tos", 0x48)
        c.send("underlay", from_node("node-b", encapsulate(
            "geneve", packet, "10.0.0.2", "10.0.0.1", own="node-b", peer="node-a", tos=0x88, ttl=20)))
        result = packet.copy()
        if not pipe:
            # The outer values count where the tunnel is one road with the rest.
            if version == 6:
                result[IPv6].tc, result[IPv6].hlim = 0x88, 20
            else:
                result[IP].tos, result[IP].ttl = 0x88, 20
        c.expect("default_a", to_pod("a", routed(result)))


case("dscp-ttl-pipe", """Tunnels as pipes (RFC 2983): the outer DSCP and time to live are the configured ones, the inner
     ones pass untouched, and only the congestion mark is copied. Rules: TUN-6.""", tunnel="geneve", mode="Always",
     configuration="dscpMode: pipe\ndscp: 26\nttlMode: pipe\nttl: 33")(lambda c: field_modes(c, True))
case("dscp-ttl-uniform", """Uniform tunnels (RFC 2983): the outer DSCP and time to live are the inner ones, and come back
     in at the other end. Rules: TUN-6.""", tunnel="geneve", mode="Always",
     configuration="dscpMode: uniform\nttlMode: uniform")(lambda c: field_modes(c, False))


def icmp_error(source, kind, code, about, unused=0, limit=548, tos=0xC0):
    """An ICMP error of the node about an IP packet."""
    quoted = bytes(about)[:limit]
    return IP(src=source, dst=about[IP].src, tos=tos, id=0, ttl=64) / ICMP(
        type=kind, code=code, unused=0, nexthopmtu=unused) / Raw(quoted) if kind == 3 else IP(
            src=source, dst=about[IP].src, tos=tos, id=0, ttl=64) / ICMP(type=kind, code=code) / Raw(quoted)


def icmp6_error(source, kind, about, word=0, code=0, limit=1232):
    from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded
    layer = {1: ICMPv6DestUnreach(code=code), 2: ICMPv6PacketTooBig(mtu=word), 3: ICMPv6TimeExceeded(code=code)}[kind]
    return IPv6(src=source, dst=about[IPv6].src, hlim=64) / layer / Raw(bytes(about)[:limit])


@case("ttl-edges", """The hop count at its end: 1 and 0 are dropped and the sender is told, except about an ICMP error, a
      later fragment or a group; 2 passes and becomes 1. Rules: TUN-1, TUN-7 (RFC 792, RFC 4443).""")
def ttl_edges(c):
    for ttl in (0, 1):
        packet = transports(4, pod4("a"), pod4("a2"), ttl=ttl)[1]
        c.send("default_a", from_pod("a", packet))
        c.expect("default_a", to_pod("a", icmp_error("10.0.0.1", 11, 0, packet)))
        c.drop("default/a", "hopLimit")
        packet = transports(6, pod6("a"), pod6("a2"), hlim=ttl)[1]
        c.send("default_a", from_pod("a", packet))
        c.expect("default_a", to_pod("a", icmp6_error("fd00:10::1", 3, packet)))
        c.drop("default/a", "hopLimit")
    error = IP(src=pod4("a"), dst=pod4("a2"), ttl=1) / ICMP(type=3, code=3) / Raw(
        bytes(IP(src=pod4("a2"), dst=pod4("a")) / UDP(sport=1, dport=2)))
    c.send("default_a", from_pod("a", error))
    c.drop("default/a", "hopLimit")
    for version in (4, 6):
        packet = transports(version, *((pod4("a"), pod4("a2")) if version == 4 else (pod6("a"), pod6("a2"))),
                            **({"ttl": 2} if version == 4 else {"hlim": 2}))[0]
        c.send("default_a", from_pod("a", packet))
        c.expect("default_a2", to_pod("a2", routed(packet)))


@case("too-big", """Packets around the limit of a VXLAN tunnel over a link of 1500 octets: 1450 passes, 1451 with DF or over
      IPv6 is dropped and its sender told 1450. Rules: NODE-6, TUN-1, TUN-7 (RFC 1191, RFC 8201).""",
      tunnel="vxlan", mode="Always")
def too_big(c):
    for size in (1450, 1451, 1500):
        packet = IP(src=pod4("a"), dst=pod4("b"), flags="DF", id=0) / UDP(sport=43000, dport=9) / Raw(
            bytes(size - 28))
        c.send("default_a", from_pod("a", packet))
        big = IPv6(src=pod6("a"), dst=pod6("b")) / UDP(sport=43000, dport=9) / Raw(bytes(size - 48))
        c.send("default_a", from_pod("a", big))
        if size <= 1450:
            for sent_packet in (packet, big):
                c.expect("underlay", lambda sent, packet=routed(sent_packet): bytes(to_node(
                    "node-b", encapsulate("vxlan", packet, "10.0.0.1", "10.0.0.2", sent[14:]))))
        else:
            c.expect("default_a", to_pod("a", icmp_error("10.0.0.1", 3, 4, packet, unused=1450)))
            c.expect("default_a", to_pod("a", icmp6_error("fd00:10::1", 2, big, word=1450)))
            c.drop("default/a", "tooBig", 2)


@case("fragmentation", """A packet without DF that is too long for the tunnel is cut before it is wrapped, as a router does:
      the fragments' lengths are multiples of eight, only copied options are in the later ones. Rules: TUN-1, TUN-8
      (RFC 791).""", tunnel="ipip", mode="Always")
def fragmentation(c):
    for options in ([], [b"\x94\x04\x00\x00", b"\x07\x07\x04\x00\x00\x00\x00\x00"]):
        text = b"".join(options)
        from scapy.layers.inet import IPOption
        packet = IP(src=pod4("a"), dst=pod4("b"), id=4242, options=[IPOption(text)] if text else []) / UDP(
            sport=44000, dport=9) / Raw(bytes(range(256)) * 8)
        c.send("default_a", from_pod("a", packet))
        whole = bytes(routed(packet))
        header = (whole[0] & 15) * 4
        payload = whole[header:]
        size, offset = (1480 - header) // 8 * 8, 0
        number = 0
        while offset < len(payload):
            part = payload[offset:offset + size]
            more = offset + size < len(payload)
            kept = options if offset == 0 else options[:1]
            piece = IP(src=pod4("a"), dst=pod4("b"), id=4242, ttl=63, proto=17, flags="MF" if more else 0,
                       frag=offset // 8, options=[IPOption(b"".join(kept))] if kept else []) / Raw(part)
            c.expect("underlay", lambda sent, piece=piece: bytes(to_node(
                "node-b", encapsulate("ipip", piece, "10.0.0.1", "10.0.0.2", sent[14:]))))
            # Later ones have a shorter header, and so more room: but the cut is by the first one's.
            offset += size
            number += 1


@case("fragments-in-transit", """Fragments follow the flow of their first one, in order or not, in a tunnel and out of it;
      what overlaps poisons its datagram (RFC 5722), and what never gets a first one is given up. Rules: TUN-8.""",
      tunnel="ipip", mode="Always")
def fragments_in_transit(c):
    from scapy.layers.inet import fragment
    def parts(source, destination, number, **more):
        packet = IP(src=source, dst=destination, id=number, **more) / UDP(sport=45000, dport=9) / Raw(b"x" * 2400)
        return [IP(bytes(piece)) for piece in fragment(packet, fragsize=800)]
    def leaves(packet):
        return lambda sent: bytes(to_node("node-b", encapsulate("ipip", packet, "10.0.0.1", "10.0.0.2", sent[14:])))
    # In order, and with DF, which says that nobody else may cut further.
    for piece in parts(pod4("a"), pod4("b"), 1):
        c.send("default_a", from_pod("a", piece))
        c.expect("underlay", leaves(routed(piece)))
    # The first one last: the others wait for it, and leave after it.
    pieces = parts(pod4("a"), pod4("b"), 2)
    for piece in pieces[1:] + pieces[:1]:
        c.send("default_a", from_pod("a", piece))
    for piece in pieces:
        c.expect("underlay", leaves(routed(piece)))
    # The second overlaps the first by eight octets.
    pieces = parts(pod4("a"), pod4("b"), 3)
    pieces[1].frag -= 1
    del pieces[1].chksum
    for piece in pieces:
        c.send("default_a", from_pod("a", piece))
    c.expect("underlay", leaves(routed(pieces[0])))
    c.drop("default/a", "fragmentOverlap", len(pieces) - 1)
    # Not a multiple of eight though more follow; beyond the longest datagram.
    bad = IP(src=pod4("a"), dst=pod4("b"), id=4, flags="MF", frag=1, proto=17) / Raw(b"y" * 13)
    c.send("default_a", from_pod("a", bad))
    bad = IP(src=pod4("a"), dst=pod4("b"), id=5, frag=8191, proto=17) / Raw(b"y" * 64)
    c.send("default_a", from_pod("a", bad))
    c.drop("default/a", "fragmentInvalid", 2)
    # The first one never comes.
    for piece in parts(pod4("a"), pod4("b"), 6)[1:]:
        c.send("default_a", from_pod("a", piece))
    c.drop("default/a", "fragmentNoFirst", 3)


@case("fragmented-tunnel", """Tunnel packets that the underlay cut are put together before they are unwrapped, in any order,
      over IPv4 and IPv6; what stays incomplete is given up after its time. Rules: TUN-8.""",
      tunnel="ipip", mode="Always")
def fragmented_tunnel(c):
    from scapy.layers.inet import fragment
    inner = IP(src=pod4("b"), dst=pod4("a"), id=9, ttl=60) / UDP(sport=46000, dport=9) / Raw(b"z" * 1400)
    outer = IP(src="10.0.0.2", dst="10.0.0.1", id=77, proto=4) / inner
    pieces = [IP(bytes(piece)) for piece in fragment(outer, fragsize=512)]
    for piece in reversed(pieces):
        c.send("underlay", from_node("node-b", piece))
    c.expect("default_a", to_pod("a", routed(inner)))
    for piece in pieces[:-1]:
        piece = piece.copy()
        piece.id = 78
        del piece.chksum
        c.send("underlay", from_node("node-b", piece))
    c.drop("underlay", "reassemblyTimeout", 1)


# --- Ethernet, VLAN, ARP, NDP ---------------------------------------------------------------------------------------

@case("vlan-tags", """A priority tag (VLAN 0) belongs to every port; any other VLAN, alone or below a provider's tag, is not
      ours; three tags are one too many. Rules: TUN-10.""")
def vlan_tags(c):
    packet = transports(4, pod4("b"), pod4("a"))[1]
    frame = Ether(dst=MAC["node-a"], src=MAC["node-b"])
    for tags in (Dot1Q(vlan=0, prio=5), Dot1AD(vlan=0) / Dot1Q(vlan=0)):
        c.send("underlay", frame / tags / packet)
        c.expect("default_a", to_pod("a", routed(packet)))
    for tags in (Dot1Q(vlan=5), Dot1AD(vlan=100) / Dot1Q(vlan=5), Dot1AD(vlan=0) / Dot1Q(vlan=5)):
        c.send("underlay", frame / tags / packet)
        c.drop("underlay", "unknownVLAN")
    c.send("underlay", frame / Dot1Q(vlan=0) / Dot1Q(vlan=0) / Dot1Q(vlan=0) / packet)
    c.drop("underlay", "badEthernet")


@case("arp", """A pod is answered for its gateway and for every address that is reached elsewhere, never for its own, never
      when it probes for a duplicate or announces itself, and only if it asks by its own address. On the underlay the
      node answers for its pods. Rules: NODE-2, NODE-4.""")
def arp(c):
    own = pod_mac(pod4("a"))
    def ask(target, sender=pod4("a"), mac=own, **fields):
        frame = Ether(dst="ff:ff:ff:ff:ff:ff", src=mac) / ARP(
            **{"op": 1, "hwsrc": mac, "psrc": sender, "hwdst": "00:00:00:00:00:00", "pdst": target, **fields})
        c.send("default_a", frame)
    def answered(target):
        c.expect("default_a", Ether(dst=own, src=GATEWAY_MAC) / ARP(
            op=2, hwsrc=GATEWAY_MAC, psrc=target, hwdst=own, pdst=pod4("a")))
    for target in ("169.254.1.1", pod4("a2"), pod4("b"), "10.0.0.2", "192.0.2.1"):
        ask(target)
        answered(target)
    ask(pod4("a"))  # announces itself
    ask("169.254.1.1", sender="0.0.0.0")  # looks for a duplicate
    ask("10.244.0.77")  # an address of this node's block that no pod has
    ask("169.254.1.1", op=2)
    c.drop("default/a", "arpIgnored", 4)
    ask("169.254.1.1", sender=pod4("a2"))
    c.drop("default/a", "sourceAddress")
    ask("169.254.1.1", ptype=0x1234)
    c.send("default_a", Ether(dst="ff:ff:ff:ff:ff:ff", src=own, type=0x0806) / Raw(bytes(10)))
    c.drop("default/a", "badARP", 2)
    ask("169.254.1.1", mac=pod_mac(pod4("a2")))
    c.drop("default/a", "sourceMAC")
    frame = Ether(dst="ff:ff:ff:ff:ff:ff", src=MAC["node-b"])
    c.send("underlay", frame / ARP(op=1, hwsrc=MAC["node-b"], psrc="10.0.0.2", pdst=pod4("a")))
    c.expect("underlay", Ether(dst=MAC["node-b"], src=MAC["node-a"]) / ARP(
        op=2, hwsrc=MAC["node-a"], psrc=pod4("a"), hwdst=MAC["node-b"], pdst="10.0.0.2"))
    c.send("underlay", frame / ARP(op=1, hwsrc=MAC["node-b"], psrc="10.0.0.2", pdst="10.0.0.1"))
    c.drop("underlay", "arpIgnored")


@case("ndp", """The same for IPv6: solicitations are answered without the Override flag, duplicate address detection is left
      alone, and a message that did not start on the link (hop limit below 255) or has a wrong checksum is ignored.
      Rules: NODE-2 (RFC 4389, RFC 4861).""")
def ndp(c):
    from scapy.layers.inet6 import (ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS, ICMPv6NDOptDstLLAddr,
                                    ICMPv6NDOptSrcLLAddr)
    own = pod_mac(pod4("a"))
    def ask(target, source=pod6("a"), hlim=255, option=True, checksum=None):
        message = ICMPv6ND_NS(tgt=target)
        if checksum is not None:
            message.cksum = checksum
        packet = IPv6(src=source, dst="ff02::1:ff00:1", hlim=hlim) / message
        if option:
            packet = packet / ICMPv6NDOptSrcLLAddr(lladdr=own)
        c.send("default_a", Ether(dst="33:33:ff:00:00:01", src=own) / packet)
    def answered(target, to=pod6("a")):
        c.expect("default_a", Ether(dst=own, src=GATEWAY_MAC) / IPv6(src=target, dst=to, hlim=255) / ICMPv6ND_NA(
            tgt=target, R=1, S=1, O=0) / ICMPv6NDOptDstLLAddr(lladdr=GATEWAY_MAC))
    for target in (GATEWAY6, pod6("a2"), pod6("b"), "2001:db8::1"):
        ask(target)
        answered(target)
    ask(GATEWAY6, option=False)
    answered(GATEWAY6)
    ask(pod6("a"))
    ask(pod6("b"), source="::", option=False)
    ask(pod6("b"), hlim=254)
    ask(pod6("b"), checksum=0x1234)
    c.send("default_a", Ether(dst="33:33:00:00:00:02", src=own) / IPv6(
        src=pod6("a"), dst="ff02::2", hlim=255) / ICMPv6ND_RS())
    c.drop("default/a", "ndpIgnored", 5)
    ask(GATEWAY6, source=pod6("a2"))
    c.drop("default/a", "sourceAddress")


@case("gateway-echo", """The gateways answer an echo request themselves; nothing else lives there. Rules: NODE-1.""")
def gateway_echo(c):
    request = IP(src=pod4("a"), dst="169.254.1.1", id=5) / ICMP(type=8, id=3, seq=9) / Raw(b"ping")
    c.send("default_a", from_pod("a", request))
    c.expect("default_a", to_pod("a", IP(src="169.254.1.1", dst=pod4("a"), id=5, ttl=64) / ICMP(
        type=0, id=3, seq=9) / Raw(b"ping")))
    from scapy.layers.inet6 import ICMPv6EchoReply
    c.send("default_a", from_pod("a", IPv6(src=pod6("a"), dst=GATEWAY6) / ICMPv6EchoRequest(
        id=3, seq=9, data=b"ping")))
    c.expect("default_a", to_pod("a", IPv6(src=GATEWAY6, dst=pod6("a"), hlim=64) / ICMPv6EchoReply(
        id=3, seq=9, data=b"ping")))
    c.send("default_a", from_pod("a", IP(src=pod4("a"), dst="169.254.1.1") / UDP(sport=1, dport=9)))
    c.drop("default/a", "invalidDestination")


# --- odd packets ----------------------------------------------------------------------------------------------------

@case("ip-options", """IPv4 options pass untouched, IPv6 extension headers too; a source route, old or new, is refused.
      Rules: NODE-4 (RFC 7126, RFC 5095).""")
def ip_options(c):
    from scapy.layers.inet import IPOption
    from scapy.layers.inet6 import (IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN, RouterAlert)
    for option in (b"\x94\x04\x00\x00", b"\x07\x0b\x04" + bytes(8) + b"\x00", b"\x01\x01\x01\x00"):
        packet = IP(src=pod4("a"), dst=pod4("a2"), options=[IPOption(option)]) / UDP(sport=1, dport=2) / Raw(b"o")
        c.send("default_a", from_pod("a", packet))
        c.expect("default_a2", to_pod("a2", routed(packet)))
    for kind in (0x83, 0x89):
        packet = IP(src=pod4("a"), dst=pod4("a2"), options=[IPOption(bytes([kind, 7, 4, 10, 0, 0, 9, 0]))]) / UDP(
            sport=3, dport=kind)
        c.send("default_a", from_pod("a", packet))
        c.drop("default/a", "sourceRoute")
    for header in (IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN(optdata=b"")]), IPv6ExtHdrDestOpt()):
        packet = IPv6(src=pod6("a"), dst=pod6("a2")) / header / UDP(sport=1, dport=2) / Raw(b"o")
        c.send("default_a", from_pod("a", packet))
        c.expect("default_a2", to_pod("a2", routed(packet)))
    packet = IPv6(src=pod6("a"), dst=pod6("a2")) / IPv6ExtHdrRouting(type=0, segleft=1, addresses=["fd00::9"]) / UDP(
        sport=1, dport=2)
    c.send("default_a", from_pod("a", packet))
    c.drop("default/a", "sourceRoute")


@case("lengths", """Lengths that do not add up: Ethernet's padding is cut off, everything else that is too short or says so
      is dropped with its own reason, and nothing is read beyond its end. Rules: RFC 1812, section 5.2.2; RFC 8200.""")
def lengths(c):
    packet = IP(src=pod4("a"), dst=pod4("a2"), id=1) / UDP(sport=1, dport=2) / Raw(b"padded")
    c.send("default_a", bytes(from_pod("a", packet)) + bytes(12))
    c.expect("default_a2", to_pod("a2", routed(packet)))
    whole = bytes(from_pod("a", packet))
    # Not even an Ethernet header: counted by the port as unreadable.
    for cut in (1, 13):
        c.send("default_a", whole[:cut])
    def with_header(**fields):
        copy = packet.copy()
        for name, value in fields.items():
            setattr(copy, name, value)
        c.send("default_a", from_pod("a", copy))
    with_header(len=19)
    with_header(len=4000)
    with_header(ihl=4)
    with_header(ihl=15)
    with_header(version=5)
    c.send("default_a", whole[:14 + 19])
    c.drop("default/a", "badIPv4Header", 6)
    with_header(chksum=0x1234)
    c.drop("default/a", "badIPv4Checksum")
    short = IP(src=pod4("a"), dst=pod4("a2"), proto=17) / Raw(b"1234567")
    c.send("default_a", from_pod("a", short))
    short = IP(src=pod4("a"), dst=pod4("a2"), proto=6) / Raw(bytes(19))
    c.send("default_a", from_pod("a", short))
    short = IP(src=pod4("a"), dst=pod4("a2"), proto=132) / Raw(bytes(11))
    c.send("default_a", from_pod("a", short))
    short = IP(src=pod4("a"), dst=pod4("a2"), proto=1) / Raw(bytes(7))
    c.send("default_a", from_pod("a", short))
    c.drop("default/a", "badTransport", 4)
    six = IPv6(src=pod6("a"), dst=pod6("a2")) / UDP(sport=1, dport=2) / Raw(b"six")
    c.send("default_a", bytes(from_pod("a", six))[:14 + 39])
    long = six.copy()
    long.plen = 4000
    c.send("default_a", from_pod("a", long))
    wrong = six.copy()
    wrong.version = 4
    c.send("default_a", from_pod("a", wrong))
    c.drop("default/a", "badIPv6Header", 3)
    from scapy.layers.inet6 import IPv6ExtHdrDestOpt
    chain = IPv6(src=pod6("a"), dst=pod6("a2"))
    for _ in range(9):
        chain = chain / IPv6ExtHdrDestOpt()
    c.send("default_a", from_pod("a", chain / UDP(sport=1, dport=2)))
    c.send("default_a", from_pod("a", IPv6(src=pod6("a"), dst=pod6("a2"), nh=60) / Raw(b"\x11\x09" + bytes(6))))
    c.drop("default/a", "badExtensionHeader", 2)


@case("snapped-capture", """A capture that kept only the beginning of each packet: headers are enough to decide, and what
      leaves is as short, with its length on the wire kept. Rules: RFC 791.""")
def snapped(c):
    packet = IP(src=pod4("a"), dst=pod4("a2"), id=1) / UDP(sport=1, dport=2) / Raw(bytes(1000))
    frame = bytes(from_pod("a", packet))
    c.send("default_a", frame[:96], wire_length=len(frame))
    c.expect("default_a2", bytes(to_pod("a2", routed(packet)))[:96])
    c.tshark_allows.add("snapped")


@case("source-checks", """A pod sends from its own addresses and its own Ethernet address only, sends no tunnel packets, and
      nobody sends from addresses that cannot be sources; a pod of this node does not send from outside. Rules: NODE-4
      (RFC 1812, section 5.3.7).""", tunnel="vxlan", mode="Always")
def source_checks(c):
    good = transports(4, pod4("a"), pod4("a2"))[1]
    c.send("default_a", from_pod("a", good))
    c.expect("default_a2", to_pod("a2", routed(good)))
    c.send("default_a", from_pod("a", transports(4, pod4("a2"), pod4("b"))[1]))
    c.send("default_a", from_pod("a", transports(6, pod6("a2"), pod6("b"))[1]))
    c.drop("default/a", "sourceAddress", 2)
    c.send("default_a", from_pod("a", transports(4, pod4("a"), pod4("a2"))[0], src=pod_mac(pod4("a2"))))
    c.drop("default/a", "sourceMAC")
    for source in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"):
        c.send("default_a", from_pod("a", transports(4, source, pod4("b"))[1]))
    for source in ("::", "::1", "ff02::1"):
        c.send("default_a", from_pod("a", transports(6, source, pod6("b"))[1]))
    c.drop("default/a", "invalidSource", 7)
    for destination in ("127.0.0.1", "0.0.0.0"):
        c.send("default_a", from_pod("a", transports(4, pod4("a"), destination)[1]))
    for destination in ("::1", "::"):
        c.send("default_a", from_pod("a", transports(6, pod6("a"), destination)[1]))
    c.drop("default/a", "invalidDestination", 4)
    for destination in ("224.0.0.5", "255.255.255.255"):
        c.send("default_a", from_pod("a", transports(4, pod4("a"), destination)[1]))
    c.send("default_a", from_pod("a", transports(6, pod6("a"), "ff05::1")[1]))
    c.drop("default/a", "multicast", 3)
    c.send("default_a", from_pod("a", good, dst="02:00:00:00:00:99"))
    c.drop("default/a", "notOurMAC")
    inner = transports(4, pod4("b"), pod4("a2"))[1]
    for remote in ("10.0.0.1", "10.0.0.2"):
        for kind in ("ipip", "gre", "vxlan", "geneve"):
            c.send("default_a", from_pod("a", encapsulate(kind, inner, pod4("a"), remote)))
            c.drop("default/a", "tunnelFromPod")
    c.send("underlay", from_node("node-b", transports(4, pod4("a"), pod4("a2"))[1]))
    c.drop("underlay", "sourceAddress")


@case("tunnel-refusals", """What does not belong to a tunnel is refused, each for its own reason: strangers, other tunnels,
      other networks, wrong checksums, unknown critical options, headers and contents that make no sense. Reserved bits of
      VXLAN are ignored. Rules: NODE-4, TUN-2, TUN-3, TUN-4.""", tunnel="vxlan", mode="Always")
def tunnel_refusals(c):
    import struct
    inner = transports(4, pod4("b"), pod4("a"))[1]
    def vxlan(packet=inner, remote="10.0.0.2", node="node-b", **options):
        return from_node(node, encapsulate("vxlan", packet, remote, "10.0.0.1", **{
            "own": "node-b", "peer": "node-a", **options}))
    c.send("underlay", vxlan())
    c.expect("default_a", to_pod("a", routed(inner)))
    # All reserved bits set (RFC 7348: ignored when received).
    octets = bytearray(bytes(vxlan()))
    octets[42:46], octets[49] = b"\xff\xff\xff\xff", 0xFF
    c.send("underlay", bytes(octets))
    c.expect("default_a", to_pod("a", routed(inner)))
    octets[42] = 0xF7  # all but the I flag
    c.send("underlay", bytes(octets))
    c.drop("underlay", "badTunnelHeader")
    c.send("underlay", vxlan(remote="10.0.0.99"))
    c.drop("underlay", "unknownPeer")
    c.send("underlay", vxlan(vni=4097))
    c.drop("underlay", "unknownVNI")
    c.send("underlay", vxlan(peer="node-c"))
    c.drop("underlay", "notOurMAC")
    good = bytearray(bytes(vxlan(udp_checksum=True)))
    c.send("underlay", bytes(good))
    c.expect("default_a", to_pod("a", routed(inner)))
    good[-1] ^= 1
    c.send("underlay", bytes(good))
    c.drop("underlay", "badTunnelChecksum")
    for kind in ("ipip", "gre", "geneve"):
        c.send("underlay", from_node("node-b", encapsulate(kind, inner, "10.0.0.2", "10.0.0.1", own="node-b",
                                                           peer="node-a")))
        c.drop("underlay", "tunnelNotEnabled")
    outer = IP(src="10.0.0.2", dst="10.0.0.1", flags="DF", id=0)
    ethernet = Ether(dst=MAC["node-a"], src=MAC["node-b"])
    def payload(frame):
        return from_node("node-b", outer / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(flags=8, vni=4096) / frame)
    c.send("underlay", payload(Ether(dst=MAC["node-a"], src=MAC["node-b"], type=0x88CC) / Raw(b"lldp")))
    c.drop("underlay", "innerProtocol")
    c.send("underlay", payload(Ether(dst="ff:ff:ff:ff:ff:ff", src=MAC["node-b"]) / inner))
    c.drop("underlay", "multicast")
    c.send("underlay", payload(Raw(b"short")))
    c.drop("underlay", "badTunnelHeader")
    truncated = payload(ethernet / inner)
    truncated[UDP].len = 4
    c.send("underlay", truncated)
    c.drop("underlay", "badTunnelHeader")
    # GRE: version 1, routing bit, wrong checksum; Geneve: a critical option, a control message.
    c.send("underlay", from_node("node-b", outer / GRE(version=1, proto=0x0800) / inner))
    c.drop("underlay", "badTunnelHeader")
    c.send("underlay", from_node("node-b", outer / GRE(chksum_present=1, chksum=0x1234, proto=0x0800) / inner))
    c.drop("underlay", "badTunnelChecksum")
    c.send("underlay", from_node("node-b", outer / GRE(key_present=1, key=1, proto=0x0800) / inner))
    c.drop("underlay", "unknownVNI")
    option = struct.pack("!HBB", 0x0102, 0x80, 1) + bytes(4)
    def geneve(flags, options=b""):
        return from_node("node-b", outer / UDP(sport=50000, dport=6081, chksum=0) / Raw(
            struct.pack("!BBHI", len(options) // 4, flags, 0x6558, 4096 << 8) + options + bytes(ethernet / inner)))
    c.send("underlay", geneve(0x40, option))
    c.drop("underlay", "unknownOption")
    c.send("underlay", geneve(0x80))
    c.drop("underlay", "innerProtocol")
    # From a node to this one, but no tunnel: the host's own. From outside to another node: not for us.
    c.send("underlay", from_node("node-b", IP(src="10.0.0.2", dst="10.0.0.1") / TCP(sport=1, dport=22)))
    c.drop("underlay", "leftToHost")
    c.send("underlay", from_node("node-b", transports(4, "192.0.2.1", pod4("b"))[1]))
    c.drop("underlay", "transit")
    c.send("underlay", from_node("node-b", transports(4, "192.0.2.1", "10.244.0.77")[1]))
    c.drop("underlay", "blackhole")
    c.send("underlay", Ether(dst=MAC["node-a"], src=MAC["node-b"], type=0x88CC) / Raw(b"lldp"))
    c.drop("underlay", "unknownEtherType")
    c.send("underlay", from_node("node-b", inner, dst=MAC["node-c"]))
    c.drop("underlay", "notOurMAC")


@case("tunnel-loop", """A packet whose source or destination is an end of the very tunnel that it would go into is not wrapped
      again (RFC 2003, section 4.2); the host may, for it reaches pods elsewhere from the node's own address. Rules:
      TUN-1.""", tunnel="ipip", mode="Always", configuration="sourceCheck: false")
def tunnel_loop(c):
    packet = IP(src="10.0.0.1", dst=pod4("b"), flags="DF", id=0) / TCP(sport=1, dport=2)
    c.send("host", Ether(dst=GATEWAY_MAC, src=HOST_MAC) / packet)
    c.expect("underlay", to_node("node-b", encapsulate("ipip", routed(packet), "10.0.0.1", "10.0.0.2")))
    c.send("default_a", from_pod("a", IP(src="10.0.0.1", dst=pod4("b"), id=1) / TCP(sport=3, dport=4)))
    c.drop("default/a", "tunnelLoop")


@case("outside-and-host", """Packets to the outside, to the host and from it: the default route leads to the host, whose kernel
      knows the way out; the host reaches pods here and elsewhere. Rules: NODE-1, NODE-7.""",
      tunnel="vxlan", mode="Always")
def outside(c):
    for destination, source in (("192.0.2.1", pod4("a")), ("10.0.0.1", pod4("a"))):
        for packet in transports(4, source, destination):
            c.send("default_a", from_pod("a", packet))
            c.expect("host", to_host(routed(packet)))
    for packet in transports(6, pod6("a"), "2001:db8::1"):
        c.send("default_a", from_pod("a", packet))
        c.expect("host", to_host(routed(packet)))
    # A node itself is reached as it is, not by the tunnel.
    for packet in transports(4, pod4("a"), "10.0.0.2"):
        c.send("default_a", from_pod("a", packet))
        c.expect("underlay", to_node("node-b", routed(packet)))
    for packet in transports(4, "10.0.0.1", pod4("a")):
        c.send("host", Ether(dst=GATEWAY_MAC, src=HOST_MAC) / packet)
        c.expect("default_a", to_pod("a", routed(packet)))


@case("path-mtu", """A router of the underlay says that a tunnel packet was too big: the path is remembered to be narrower, the
      inner sender is told the inner size, and so is the next packet that is too big. An error about something that this
      node never sent is not believed. Rules: TUN-7, NODE-6 (RFC 2003, section 5.1).""", tunnel="ipip", mode="Always")
def path_mtu(c):
    packet = IP(src=pod4("a"), dst=pod4("b"), flags="DF", id=0) / UDP(sport=40100, dport=9) / Raw(bytes(1400 - 28))
    wrapped = encapsulate("ipip", routed(packet), "10.0.0.1", "10.0.0.2")
    c.send("default_a", from_pod("a", packet))
    c.expect("underlay", to_node("node-b", wrapped))
    # As the router saw it, two hops on.
    seen = wrapped.copy()
    seen.ttl = 62
    error = IP(src="10.0.0.254", dst="10.0.0.1") / ICMP(type=3, code=4, nexthopmtu=1300) / Raw(bytes(IP(bytes(seen)))[:548])
    c.send("underlay", from_node("node-b", error))
    c.drop("underlay", "icmpIgnored")
    told = icmp_error("10.0.0.1", 3, 4, routed(packet), unused=1280, limit=548 - 20)
    c.expect("default_a", to_pod("a", told))
    c.send("default_a", from_pod("a", packet))
    c.expect("default_a", to_pod("a", icmp_error("10.0.0.1", 3, 4, packet, unused=1280)))
    c.drop("default/a", "tooBig")
    other = encapsulate("ipip", routed(packet), "10.0.0.1", "10.0.0.77")
    c.send("underlay", from_node("node-b", IP(src="10.0.0.254", dst="10.0.0.1") / ICMP(
        type=3, code=4, nexthopmtu=600) / Raw(bytes(other)[:548])))
    c.drop("underlay", "leftToHost")


@case("error-rate", """Errors are limited: of a hundred packets that ran out of hops at once, the first ten senders are told.
      Rules: TUN-7 (RFC 1812, section 4.3.2.8).""", configuration="icmpErrorRate: 10\nicmpErrorBurst: 10")
def error_rate(c):
    for number in range(100):
        packet = IP(src=pod4("a"), dst=pod4("a2"), ttl=1, id=number) / UDP(sport=48000, dport=9)
        c.send("default_a", from_pod("a", packet), after=1000)
        c.drop("default/a", "hopLimit")
        if number < 10:
            c.expect("default_a", to_pod("a", icmp_error("10.0.0.1", 11, 0, packet)))
        else:
            c.drop("default/a", "icmpRateLimited")


def service(name, spec, ports, endpoints=()):
    """A service with named TCP and UDP ports and one slice of its endpoints: (address, node)."""
    listed = ", ".join(f"{{name: {port}, protocol: {protocol}, port: {number}}}" for port, protocol, number, _ in ports)
    targets = ", ".join(f"{{name: {port}, protocol: {protocol}, port: {target}}}" for port, protocol, _, target in ports)
    ends = ", ".join(f"{{addresses: [{address}], nodeName: {node}}}" for address, node in endpoints)
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{{spec}, ports: [{listed}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{targets}]
endpoints: [{ends}]
"""


@case("services", """Packets to services go to the endpoint, answers come back from the service's address, and what nobody
      could answer is refused as kube-proxy does: by a TCP reset or a port unreachable, or in silence where others could.
      Rules: KP-15, KP-20, KP-30, KP-31, KP-37, KP-38, TUN-9, KP-36.""",
      configuration="clusterCIDRs: [10.244.0.0/16]\nserviceCIDRs: [10.96.0.0/16]")
def services(c):
    ports = [("http", "TCP", 80, 8080), ("echo", "UDP", 9, 7)]
    c.state += "---\n" + "---\n".join([
        service("one", "clusterIP: 10.96.0.1", ports, [(pod4("b"), "node-b")]),
        service("none", "clusterIP: 10.96.0.2", ports),
        service("far", "clusterIP: 10.96.0.3, internalTrafficPolicy: Local", ports, [(pod4("b"), "node-b")]),
        service("narrow", "type: LoadBalancer, clusterIP: 10.96.0.4, loadBalancerSourceRanges: [198.51.100.0/24]", ports,
                [(pod4("b"), "node-b")]) + "status: {}\n",
    ])
    c.state = c.state.replace("loadBalancerSourceRanges: [198.51.100.0/24], ports: [{name: http, protocol: TCP, port: 80}, "
                              "{name: echo, protocol: UDP, port: 9}]}",
                              "loadBalancerSourceRanges: [198.51.100.0/24], ports: [{name: http, protocol: TCP, port: 80}, "
                              "{name: echo, protocol: UDP, port: 9}]}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.80}]}}"
                              ).replace("status: {}\n", "")
    tcp, udp = transports(4, pod4("a"), "10.96.0.1")[:2]
    for packet, port in ((tcp, 8080), (udp, 7)):
        c.send("default_a", from_pod("a", packet))
        there = routed(packet)
        there[IP].dst = pod4("b")
        layer = TCP if TCP in there else UDP
        there[layer].dport = port
        del there[layer].chksum
        c.expect("underlay", to_node("node-b", there))
    answer = IP(src=pod4("b"), dst=pod4("a"), flags="DF", id=0, ttl=64) / UDP(sport=7, dport=40001) / Raw(b"back")
    c.send("underlay", from_node("node-b", answer))
    back = routed(answer)
    back[IP].src = "10.96.0.1"
    back[UDP].sport = 9
    del back[UDP].chksum
    c.expect("default_a", to_pod("a", back))
    for address, reason in (("10.96.0.2", "noEndpoint"), ("10.96.0.1", "noServicePort")):
        tcp, udp = transports(4, pod4("a"), address)[:2]
        if reason == "noServicePort":
            tcp[TCP].dport = udp[UDP].dport = 4711
        c.send("default_a", from_pod("a", tcp))
        reset = IP(src=address, dst=pod4("a"), flags="DF", id=0, ttl=64) / TCP(
            sport=tcp[TCP].dport, dport=40000, flags="RA", seq=0, ack=1001, window=0)
        c.expect("default_a", to_pod("a", reset))
        c.send("default_a", from_pod("a", udp))
        c.expect("default_a", to_pod("a", icmp_error("10.0.0.1", 3, 3, udp, tos=0xC0)))
        c.drop("default/a", reason, 2)
    for address, reason in (("10.96.0.3", "noLocalEndpoint"), ("10.96.0.99", "noService"), ("192.0.2.80", "sourceRange")):
        c.send("default_a", from_pod("a", transports(4, pod4("a"), address)[0]))
        c.drop("default/a", reason)
    # An answer to a masqueraded connection of which nothing is known (any more): the port is none of the host's.
    late = IP(src="192.0.2.9", dst="10.0.0.1", flags="DF", id=0, ttl=64) / UDP(sport=9, dport=62000) / Raw(b"late")
    c.send("underlay", from_node("node-b", late))
    c.drop("underlay", "unknownMasquerade")


@case("policy", """Pods that a policy selects send and receive what some policy allows and nothing else; answers are implied.
      Rules: NP-1, NP-2, NP-3, NP-4, NP-5, NP-6.""")
def policy(c):
    c.state += """---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lock, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/24}}], ports: [{protocol: UDP, port: 9}]}]
  egress: [{to: [{ipBlock: {cidr: 10.244.0.0/16}}], ports: [{protocol: UDP, port: 9}]}]
"""
    tcp, udp = transports(4, pod4("a"), pod4("a2"))[:2]
    c.send("default_a", from_pod("a", udp))
    c.expect("default_a2", to_pod("a2", routed(udp)))
    answer = IP(src=pod4("a2"), dst=pod4("a"), flags="DF", id=0, ttl=64) / UDP(sport=9, dport=40001) / Raw(b"back")
    c.send("default_a2", from_pod("a2", answer))
    c.expect("default_a", to_pod("a", routed(answer)))
    c.send("default_a", from_pod("a", tcp))
    c.drop("default/a", "policyEgress")
    c.send("underlay", from_node("node-b", transports(4, pod4("b"), pod4("a"))[1]))
    c.drop("underlay", "policyIngress")


@case("strict-tcp", """Where the configuration says so, a TCP connection whose beginning was not seen is not picked up.
      Rules: KP-39.""", configuration="tcpBeLiberal: false")
def strict_tcp(c):
    opening = transports(4, pod4("a"), pod4("b"))[0]
    middle = IP(src=pod4("a"), dst=pod4("b"), flags="DF", id=0, ttl=64) / TCP(sport=40009, dport=80, flags="A", seq=5)
    c.send("default_a", from_pod("a", opening))
    c.expect("underlay", to_node("node-b", routed(opening)))
    c.send("default_a", from_pod("a", middle))
    c.drop("default/a", "tcpNoSYN")


@case("without-state", """A capture without a state: everything goes to the port out, with its time to live counted down, so
      that flows and drops of any capture can be looked at. Rules: none of the node's; RFC 1812.""",
      arguments="wire=ports/wire.pcap")
def without_state(c):
    c.state = None
    for version, ends in ((4, ("198.51.100.1", "192.0.2.1")), (6, ("2001:db8::1", "2001:db8:1::1"))):
        for packet in transports(version, *ends):
            c.send("wire", Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / Dot1Q(vlan=7) / packet)
            c.expect("out", Ether(dst=derived_mac("next"), src=derived_mac("out")) / routed(packet))
    c.send("wire", Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:01") / ARP(psrc="192.0.2.9", pdst="192.0.2.1"))
    c.drop("wire", "arpIgnored")

#pragma once
// libpcap and libbpf both define struct bpf_insn; see ARCHITECTURE.md.
#include <pcap/pcap.h>

#define _GNU_SOURCE
#include "bpf_shim.h"
#include "ports_shim.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static enum bpf_tc_attach_point point(bool egress) { return egress ? BPF_TC_EGRESS : BPF_TC_INGRESS; }

/// Looks through a device's filters on the way in or out. Returns how many there are, also those of others. `made`: whether
/// one of ours says that the queueing discipline is ours.
static int list_filters(int ifindex, bool egress, bool *made) {
  struct {
    struct nlmsghdr header;
    struct tcmsg body;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETTFILTER, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
      .body = {.tcm_ifindex = ifindex, .tcm_parent = TC_H_MAKE(TC_H_CLSACT, egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS)}};
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return -errno;
  char buffer[32768] __attribute__((aligned(8)));
  int count = send(fd, &request, sizeof request, 0) == sizeof request ? 0 : -errno;
  for (bool ended = count < 0; !ended;) {
    ssize_t length = recv(fd, buffer, sizeof buffer, 0);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) {
      count = length ? -errno : -EIO;
      break;
    }
    int left = (int)length;
    for (struct nlmsghdr *header = (struct nlmsghdr *)buffer; NLMSG_OK(header, left); header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_ERROR) count = ((struct nlmsgerr *)NLMSG_DATA(header))->error;
      if (header->nlmsg_type == NLMSG_ERROR || header->nlmsg_type == NLMSG_DONE) ended = true;
      if (header->nlmsg_type != RTM_NEWTFILTER) continue;
      uint32_t handle = ((struct tcmsg *)NLMSG_DATA(header))->tcm_handle;
      // The kernel lists each chain's head too, with handle 0.
      if (!handle) continue;
      count++;
      *made |= handle == KALSAE_FILTER_MADE;
    }
  }
  close(fd);
  return count;
}

/// Which handle our filter with a preference has; 0: there is none.
static uint32_t find_handle(const struct bpf_tc_hook *hook, uint32_t preference) {
  const uint32_t handles[] = {KALSAE_FILTER_MADE, KALSAE_FILTER_FOUND};
  for (int i = 0; i < 2; i++) {
    DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .handle = handles[i], .priority = preference);
    if (!bpf_tc_query(hook, &options)) return handles[i];
  }
  return 0;
}

int kalsae_bpf_attach_filter(int program, int ifindex, bool egress, uint32_t preference) {
  // libbpf would tell what is none of the user's business: that the queueing discipline is there already.
  kalsae_bpf_log_clear();
  DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = point(egress));
  int error = bpf_tc_hook_create(&hook);
  if (error && error != -EEXIST) return error;
  bool made = !error;
  uint32_t handle = made ? KALSAE_FILTER_MADE : find_handle(&hook, preference);
  if (!handle) {
    bool ours = false;
    if (list_filters(ifindex, false, &ours) < 0 || list_filters(ifindex, true, &ours) < 0) ours = false;
    handle = ours ? KALSAE_FILTER_MADE : KALSAE_FILTER_FOUND;
  }
  DECLARE_LIBBPF_OPTS(
      bpf_tc_opts, options, .prog_fd = program, .flags = BPF_TC_F_REPLACE, .handle = handle, .priority = preference);
  error = bpf_tc_attach(&hook, &options);
  if (error && made) {
    hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS;
    bpf_tc_hook_destroy(&hook);
  }
  return error;
}

static int detach(int ifindex, bool egress, uint32_t preference) {
  kalsae_bpf_log_clear();
  DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = ifindex, .attach_point = point(egress));
  uint32_t handle = find_handle(&hook, preference);
  if (!handle) return -ENOENT;
  DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .handle = handle, .priority = preference);
  int error = bpf_tc_detach(&hook, &options);
  if (error || handle != KALSAE_FILTER_MADE) return error;
  bool made = false;
  if (list_filters(ifindex, false, &made) || list_filters(ifindex, true, &made)) return 0;
  hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS;
  return bpf_tc_hook_destroy(&hook);
}

struct place {
  int ifindex;
  bool egress;
  uint32_t preference;
  int result;
};

static void detach_place(void *argument) {
  struct place *place = argument;
  place->result = detach(place->ifindex, place->egress, place->preference);
}

int kalsae_bpf_detach_filter(const char *path, int ifindex, bool egress, uint32_t preference) {
  struct place place = {.ifindex = ifindex, .egress = egress, .preference = preference};
  int error = kalsae_in_namespace(path, detach_place, &place);
  return error ? error : place.result;
}

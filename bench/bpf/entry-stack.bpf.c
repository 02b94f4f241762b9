// SPDX-License-Identifier: MIT
// What finding 24 callers costs.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 lost;  // stacks that were shorter

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  __u64 ips[24];
  if (bpf_get_stack(ctx, ips, sizeof ips, BPF_F_USER_STACK) != sizeof ips) lost++;
  return 0;
}

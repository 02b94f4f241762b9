// SPDX-License-Identifier: MIT
// Counts entries and returns of whatever function it is copied onto.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

__u64 entries;
__u64 returns;

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  __sync_fetch_and_add(&entries, 1);
  return 0;
}

SEC("uretprobe")
int leave(struct pt_regs* ctx) {
  __sync_fetch_and_add(&returns, 1);
  return 0;
}

// SPDX-License-Identifier: MIT
// Counts entries only, with its context read in full.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

__u64 entries;
__u64 last_flags;

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  last_flags = ctx->eflags;
  __sync_fetch_and_add(&entries, 1);
  return 0;
}

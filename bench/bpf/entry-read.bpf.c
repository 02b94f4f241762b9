// SPDX-License-Identifier: MIT
// What reading memory by address costs: 16 bytes of the stack.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 lost;  // reads that failed

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  __u64 words[2];
  if (bpf_probe_read_user(words, sizeof words, (const void*)ctx->rsp) != 0) lost++;
  return 0;
}

// SPDX-License-Identifier: MIT
// A program that could give a function's result and lets the function run.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("replace")
int ask(struct pt_regs* ctx) {
  if (PT_REGS_PARM1(ctx) == -1ul) bpf_override_return(ctx, 0);
  return 0;
}

// SPDX-License-Identifier: MIT
// A tail call, which the runtime refuses with a sentence.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 2);
  __uint(key_size, 4);
  __uint(value_size, 4);
} jumps SEC(".maps");

SEC("uprobe/jump")
int jump(struct pt_regs* ctx) {
  bpf_tail_call(ctx, &jumps, 1);
  return 7;
}

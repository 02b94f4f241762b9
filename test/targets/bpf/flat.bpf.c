// SPDX-License-Identifier: MIT
// A queue that the program only looks at, for test/live/kinds.test.ts.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

struct {
  __uint(type, BPF_MAP_TYPE_QUEUE);
  __uint(max_entries, 4);
  __type(value, __u64);
} latest SEC(".maps");

__u64 found;

SEC("uprobe")
int look(struct pt_regs* ctx) {
  __u64 value = 0;
  if (bpf_map_peek_elem(&latest, &value) == 0) found = value;
  return 0;
}

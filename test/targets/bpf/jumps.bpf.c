// SPDX-License-Identifier: MIT
// A map of a kind that is in the kernel only, which is refused with a sentence.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

struct {
  __uint(type, BPF_MAP_TYPE_SOCKMAP);
  __uint(max_entries, 2);
  __uint(key_size, 4);
  __uint(value_size, 4);
} jumps SEC(".maps");

SEC("uprobe/jump")
int jump(struct pt_regs* ctx) {
  __u32 key = 0;
  return bpf_map_delete_elem(&jumps, &key);
}

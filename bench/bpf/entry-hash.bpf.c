// SPDX-License-Identifier: MIT
// Counts calls by the first argument, 64 keys.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, __u64);
  __type(value, __u64);
} counts SEC(".maps");

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  __u64 key = PT_REGS_PARM1(ctx) & 63;
  __u64* count = bpf_map_lookup_elem(&counts, &key);
  if (count) {
    __sync_fetch_and_add(count, 1);
  } else {
    __u64 one = 1;
    bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
  }
  return 0;
}

// SPDX-License-Identifier: MIT
// Counts calls in an element of a per-CPU array.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} counter SEC(".maps");

SEC("uprobe")
int enter(void* ctx) {
  __u32 key = 0;
  __u64* count = bpf_map_lookup_elem(&counter, &key);
  if (count) __sync_fetch_and_add(count, 1);
  return 0;
}

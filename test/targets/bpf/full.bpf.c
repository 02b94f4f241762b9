// SPDX-License-Identifier: MIT
// Fills a map of two entries and keeps what the update that did not fit returned.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 2);
  __type(key, __u64);
  __type(value, __u64);
} small SEC(".maps");

__u64 next;
__s64 refusal;

SEC("uprobe")
int fill(struct pt_regs* ctx) {
  __u64 key = __sync_fetch_and_add(&next, 1);
  __s64 result = bpf_map_update_elem(&small, &key, &key, BPF_ANY);
  if (result != 0) refusal = result;
  return 0;
}

// SPDX-License-Identifier: MIT
// For price_of(item, count): how many of each item were ordered. A hash map keyed by a string.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct item {
  char name[16];
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 128);
  __type(key, struct item);
  __type(value, unsigned long);
} items SEC(".maps");

SEC("uprobe")
int BPF_KPROBE(sold, const char* item, int count) {
  struct item key = {};
  unsigned long amount = count;
  bpf_probe_read_user_str(key.name, sizeof(key.name), item);
  unsigned long* sum = bpf_map_lookup_elem(&items, &key);
  if (sum != 0) {
    __sync_fetch_and_add(sum, amount);
  } else {
    bpf_map_update_elem(&items, &key, &amount, BPF_ANY);
  }
  return 0;
}

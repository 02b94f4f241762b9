// SPDX-License-Identifier: MIT
// How long calls take: an entry and a return program in one object, totals in a global variable.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, unsigned int);
  __type(value, unsigned long);
} started SEC(".maps");

struct {
  unsigned long calls;
  unsigned long total_ns;
  unsigned long longest_ns;
} timing;

SEC("uprobe")
int enter(void* ctx) {
  unsigned int tid = bpf_get_current_pid_tgid();
  unsigned long now = bpf_ktime_get_ns();
  bpf_map_update_elem(&started, &tid, &now, BPF_ANY);
  return 0;
}

SEC("uretprobe")
int leave(void* ctx) {
  unsigned int tid = bpf_get_current_pid_tgid();
  unsigned long* start = bpf_map_lookup_elem(&started, &tid);
  if (start == 0) return 0;
  unsigned long elapsed_ns = bpf_ktime_get_ns() - *start;
  bpf_map_delete_elem(&started, &tid);
  __sync_fetch_and_add(&timing.calls, 1);
  __sync_fetch_and_add(&timing.total_ns, elapsed_ns);
  if (elapsed_ns > timing.longest_ns) timing.longest_ns = elapsed_ns;
  return 0;
}

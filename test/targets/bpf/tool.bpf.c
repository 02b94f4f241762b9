// SPDX-License-Identifier: MIT
// In the manner of libbpf-tools: constants that a tool would set decide what is used, and sizes of
// maps are left to it.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

const volatile bool filter_cg = false;

struct {
  __uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
  __type(key, __u32);
  __type(value, __u32);
  __uint(max_entries, 1);
} cgroup_map SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __type(key, __u32);
} stackmap SEC(".maps");

SEC("uprobe/trace")
int trace(struct pt_regs* ctx) {
  if (filter_cg && !bpf_current_task_under_cgroup(&cgroup_map, 0)) return 0;
  return bpf_get_stackid(ctx, &stackmap, BPF_F_USER_STACK) >= 0;
}

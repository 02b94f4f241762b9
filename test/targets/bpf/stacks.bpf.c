// SPDX-License-Identifier: MIT
// Stacks of calls of write(2) with a descriptor below zero, by that number.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define FRAMES 64

struct walk {
  __s64 bytes;
  __u64 ips[FRAMES];
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 16);
  __type(key, __u32);
  __type(value, struct walk);
} walks SEC(".maps"), returns SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct bpf_stack_build_id[4]);
} files SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __uint(max_entries, 64);
  __uint(key_size, 4);
  __uint(value_size, FRAMES * 8);
} stacks SEC(".maps");

SEC("uprobe/libc.so.6:write")
int BPF_KPROBE(entry, int fd) {
  __u32 number = -fd;
  struct walk* walk = bpf_map_lookup_elem(&walks, &number);
  if (walk == 0) return 0;
  walk->bytes = bpf_get_stack(ctx, walk->ips, sizeof(walk->ips), BPF_F_USER_STACK);
  bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
  __u32 zero = 0;
  struct bpf_stack_build_id* ids = bpf_map_lookup_elem(&files, &zero);
  if (ids) bpf_get_stack(ctx, ids, 4 * sizeof(*ids), BPF_F_USER_STACK | BPF_F_USER_BUILD_ID);
  return 0;
}

SEC("uretprobe/leaves")
int BPF_KRETPROBE(back) {
  __u32 zero = 0;
  struct walk* walk = bpf_map_lookup_elem(&returns, &zero);
  if (walk != 0) walk->bytes = bpf_get_stack(ctx, walk->ips, sizeof(walk->ips), BPF_F_USER_STACK);
  return 0;
}

// SPDX-License-Identifier: MIT
// Maps without keys, and longest prefix match.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct job {
  __u32 id;
  __u32 weight;
};

struct {
  __uint(type, BPF_MAP_TYPE_QUEUE);
  __uint(max_entries, 3);
  __type(value, struct job);
} jobs SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_STACK);
  __uint(max_entries, 3);
  __type(value, __u64);
} recent SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
  __uint(max_entries, 100);
  __uint(map_extra, 3);
  __type(value, __u32);
} seen SEC(".maps");

struct route {
  __u32 prefixlen;
  __u8 data[4];
};

struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, 16);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct route);
  __type(value, __u32);
} routes SEC(".maps");

// enqueue(id, weight): 0, or the errno of a full queue.
SEC("uprobe/enqueue")
int enqueue(struct pt_regs* ctx) {
  struct job job = {.id = PT_REGS_PARM1(ctx), .weight = PT_REGS_PARM2(ctx)};
  return bpf_map_push_elem(&jobs, &job, BPF_ANY);
}

// The id of the oldest job, which is taken out if its weight is not above the argument.
SEC("uprobe/dequeue")
int dequeue(struct pt_regs* ctx) {
  struct job job;
  long error = bpf_map_peek_elem(&jobs, &job);
  if (error != 0) return error;
  if (job.weight > PT_REGS_PARM1(ctx)) return -1;
  error = bpf_map_pop_elem(&jobs, &job);
  return error != 0 ? error : job.id;
}

// Pushes, the oldest giving way; the newest but one is the result.
SEC("uprobe/remember")
int remember(struct pt_regs* ctx) {
  __u64 value = PT_REGS_PARM1(ctx), newest = 0, result = 0;
  if (bpf_map_push_elem(&recent, &value, BPF_EXIST) != 0) return -1;
  if (bpf_map_pop_elem(&recent, &newest) != 0 || newest != value) return -2;
  if (bpf_map_peek_elem(&recent, &result) != 0) result = 0;
  bpf_map_push_elem(&recent, &newest, BPF_ANY);
  return result;
}

// Whether the argument was there before.
SEC("uprobe/first_time")
int first_time(struct pt_regs* ctx) {
  __u32 value = PT_REGS_PARM1(ctx);
  if (bpf_map_peek_elem(&seen, &value) == 0) return 0;
  return bpf_map_push_elem(&seen, &value, BPF_ANY) == 0;
}

// route(address): the value of the longest prefix, else -1.
SEC("uprobe/route")
int route(struct pt_regs* ctx) {
  __u32 address = PT_REGS_PARM1(ctx);
  struct route key = {.prefixlen = 32};
  key.data[0] = address >> 24;
  key.data[1] = address >> 16;
  key.data[2] = address >> 8;
  key.data[3] = address;
  __u32* value = bpf_map_lookup_elem(&routes, &key);
  return value != 0 ? (int)*value : -1;
}

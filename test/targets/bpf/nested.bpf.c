// SPDX-License-Identifier: MIT
// Maps of maps: inner maps chosen by index and by name.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct counts {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 8);
  __type(key, __u32);
  __type(value, __u64);
};
struct counts reads SEC(".maps");
struct counts writes SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 4);
  __type(key, __u32);
  __array(values, struct counts);
} by_kind SEC(".maps") = {.values = {[0] = &reads, [2] = &writes}};

struct table {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
};
struct table small SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
  __uint(max_entries, 4);
  __type(key, __u32);
  __array(values, struct table);
} by_name SEC(".maps") = {.values = {[0] = &small}};

// count(kind, key): what was counted, -1 if there is no such kind.
SEC("uprobe/count")
int count(struct pt_regs* ctx) {
  __u32 kind = PT_REGS_PARM1(ctx), key = PT_REGS_PARM2(ctx);
  __u64 one = 1;
  void* inner = bpf_map_lookup_elem(&by_kind, &kind);
  if (inner == 0) return -1;
  __u64* value = bpf_map_lookup_elem(inner, &key);
  if (value != 0) {
    __sync_fetch_and_add(value, 1);
    return *value;
  }
  return bpf_map_update_elem(inner, &key, &one, BPF_NOEXIST) == 0 ? 1 : -2;
}

static long add_up(void* map, __u32* key, __u64* value, __u64* sum) {
  *sum += *value;
  return 0;
}

// total(name): the sum of a table, -1 if there is none of that name.
SEC("uprobe/total")
int total(struct pt_regs* ctx) {
  __u64 sum = 0;
  __u32 name = PT_REGS_PARM1(ctx), first = 0;
  void* inner = bpf_map_lookup_elem(&by_name, &name);
  if (inner == 0) return -1;
  __u64* value = bpf_map_lookup_elem(inner, &first);
  if (value != 0) *value += 5;
  bpf_for_each_map_elem(inner, add_up, &sum, 0);
  return sum;
}

// SPDX-License-Identifier: MIT
// What a process may use beside hashes and arrays, all at once, for test/live/kinds.test.ts. The
// argument of the probed function counts up from 0 in each of its threads.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct {
  __uint(type, BPF_MAP_TYPE_QUEUE);
  __uint(max_entries, 4);
  __type(value, __u64);
} latest SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
  __uint(max_entries, 4096);
  __type(value, __u64);
} seen SEC(".maps");

struct prefix {
  __u32 prefixlen;
  __u32 bits;
};
struct {
  __uint(type, BPF_MAP_TYPE_LPM_TRIE);
  __uint(max_entries, 8);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, struct prefix);
  __type(value, __u64);
} classes SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_STACK_TRACE);
  __uint(max_entries, 64);
  __uint(key_size, 4);
  __uint(value_size, 16 * 8);
} stacks SEC(".maps");

struct counts {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
};
struct counts even SEC(".maps");
struct counts odd SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 2);
  __type(key, __u32);
  __array(values, struct counts);
} by_parity SEC(".maps") = {.values = {[0] = &even, [1] = &odd}};

__u64 calls;
__u64 firsts;
__u64 rounds;
__u64 summed;

static long add_round(__u64 i, __u64* sum) {
  *sum += i;
  return 0;
}
static long add_entry(void* map, __u32* key, __u64* value, __u64* sum) {
  *sum += *value;
  return 0;
}

SEC("uprobe")
int visit(struct pt_regs* ctx) {
  __u64 n = PT_REGS_PARM1(ctx);
  __sync_fetch_and_add(&calls, 1);
  bpf_map_push_elem(&latest, &n, BPF_EXIST);
  if (bpf_map_peek_elem(&seen, &n) != 0) {
    bpf_map_push_elem(&seen, &n, BPF_ANY);
    __sync_fetch_and_add(&firsts, 1);
  }
  struct prefix key = {.prefixlen = 32, .bits = n & 3};
  __u64* class = bpf_map_lookup_elem(&classes, &key);
  if (class != 0) __sync_fetch_and_add(class, 1);
  bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
  __u32 parity = n & 1, slot = n >> 1 & 3;
  void* inner = bpf_map_lookup_elem(&by_parity, &parity);
  if (inner != 0) {
    __u64* count = bpf_map_lookup_elem(inner, &slot);
    if (count != 0) __sync_fetch_and_add(count, 1);
  }
  __u64 sum = 0;
  bpf_loop(10, add_round, &sum, 0);
  rounds = sum;
  sum = 0;
  bpf_for_each_map_elem(&even, add_entry, &sum, 0);
  summed = sum;
  return 0;
}

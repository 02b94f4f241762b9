// SPDX-License-Identifier: MIT
// A tail call, to a program that does nothing.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

int leaf(void* ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 1);
  __uint(key_size, 4);
  __array(values, int(void*));
} programs SEC(".maps") = {.values = {[0] = (void*)&leaf}};

SEC("uprobe")
int leaf(void* ctx) { return 0; }

SEC("uprobe")
int enter(void* ctx) {
  bpf_tail_call(ctx, &programs, 0);
  return 0;
}

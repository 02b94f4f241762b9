// SPDX-License-Identifier: MIT
// A program for each thing that the verifier must refuse, and one that is fine.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct row {
  char bytes[64];
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, struct row);
} values SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 4);
  __type(key, __u64);
  __type(value, __u64);
} counts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} events SEC(".maps");

const volatile __u32 limit = 8;

SEC("uprobe/fine")
int fine(struct pt_regs* ctx) {
  __u32 key = PT_REGS_PARM1(ctx) & 3;
  struct row* row = bpf_map_lookup_elem(&values, &key);
  __u32 index = PT_REGS_PARM2(ctx);
  if (row == 0 || index >= sizeof(row->bytes)) return 0;
  return row->bytes[index];
}

SEC("uprobe/no_null_check")
int no_null_check(struct pt_regs* ctx) {
  __u64 key = PT_REGS_PARM1(ctx);
  if (key > 5) key = 5;
  __u64* value = bpf_map_lookup_elem(&counts, &key);
  return (int)*value;
}

SEC("uprobe/past_the_end")
int past_the_end(struct pt_regs* ctx) {
  __u32 key = 0;
  struct row* row = bpf_map_lookup_elem(&values, &key);
  __u32 index = PT_REGS_PARM2(ctx);
  if (row == 0 || index > sizeof(row->bytes)) return 0;
  return row->bytes[index];
}

SEC("uprobe/stack_garbage")
int stack_garbage(struct pt_regs* ctx) {
  __u64 key;
  __asm__ volatile("" : : "r"(&key) : "memory");
  return bpf_map_delete_elem(&counts, &key);
}

SEC("uprobe/record_kept")
int record_kept(struct pt_regs* ctx) {
  __u64* record = bpf_ringbuf_reserve(&events, 8, 0);
  if (record == 0) return 0;
  *record = 1;
  if (PT_REGS_PARM1(ctx) == 7) return 0;
  bpf_ringbuf_submit(record, 0);
  return 0;
}

SEC("uprobe/record_twice")
int record_twice(struct pt_regs* ctx) {
  __u64* record = bpf_ringbuf_reserve(&events, 8, 0);
  if (record == 0) return 0;
  bpf_ringbuf_submit(record, 0);
  *(volatile __u64*)record = 1;
  return 0;
}

SEC("uprobe/endless")
int endless(struct pt_regs* ctx) {
  while (bpf_get_prandom_u32() != 7) {
  }
  return 0;
}

SEC("uprobe/direct_read")
int direct_read(struct pt_regs* ctx) { return *(volatile int*)PT_REGS_PARM1(ctx); }

SEC("uprobe/context_written")
int context_written(struct pt_regs* ctx) {
  ((volatile struct pt_regs*)ctx)->rax = 0;
  return 0;
}

SEC("uprobe/constant_written")
int constant_written(struct pt_regs* ctx) {
  *(volatile __u32*)&limit = 9;
  return 0;
}

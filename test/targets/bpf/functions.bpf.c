// SPDX-License-Identifier: MIT
// Functions of a program: global ones are verified by themselves, for whatever their signature
// allows; static ones with what they are called with.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct pair {
  __u64 first, second;
};

__u64 table[8];

__attribute__((noinline)) int sum(struct pair* pair) {
  if (pair == 0) return 0;
  pair->second++;
  return (int)(pair->first + pair->second);
}

__attribute__((noinline)) int at(__u32 index) { return index < 8 ? (int)table[index] : -1; }

__attribute__((noinline)) int first_argument(struct pt_regs* ctx) {
  return (int)PT_REGS_PARM1(ctx);
}

static __attribute__((noinline)) int at_known(__u32 index) { return (int)table[index]; }

SEC("uprobe/adds")
int adds(struct pt_regs* ctx) {
  struct pair pair = {PT_REGS_PARM1(ctx), 1};
  return sum(&pair) + sum(0) + at((__u32)PT_REGS_PARM2(ctx)) + first_argument(ctx);
}

SEC("uprobe/looks")
int looks(struct pt_regs* ctx) { return at_known(PT_REGS_PARM1(ctx) & 7); }

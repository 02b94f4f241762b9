// SPDX-License-Identifier: MIT
// Tail calls whose results must be the kernel's: for bpf_same_test, as same.bpf.c.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define PROGRAM(name) SEC("raw_tp/" #name) int name(struct bpf_raw_tracepoint_args* ctx)
#define NOINLINE static __attribute__((noinline))

PROGRAM(leaf);
PROGRAM(other_leaf);
PROGRAM(chain);
PROGRAM(tree);
PROGRAM(busy);
PROGRAM(by_turns);
PROGRAM(deep);

enum { LEAF, OTHER, CHAIN, TREE, BUSY, TURNS, NOTHING, DEEP, SIZE = 12 };
struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, SIZE);
  __uint(key_size, 4);
  __array(values, int(void*));
} programs SEC(".maps") = {.values = {[LEAF] = (void*)&leaf,
                                      [OTHER] = (void*)&other_leaf,
                                      [CHAIN] = (void*)&chain,
                                      [TREE] = (void*)&tree,
                                      [BUSY] = (void*)&busy,
                                      [TURNS] = (void*)&by_turns,
                                      [DEEP] = (void*)&deep}};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} counter SEC(".maps");

NOINLINE __u64* count(void) {
  __u32 zero = 0;
  return bpf_map_lookup_elem(&counter, &zero);
}
static void start(void) {
  __u64* n = count();
  if (n) *n = 0;
}
static int next(void) {
  __u64* n = count();
  return n ? (int)++*n : -1;
}

// ---- what is gone on with

PROGRAM(leaf) { return (int)ctx->args[0] * 3 + 1; }
PROGRAM(other_leaf) { return (int)ctx->args[1] ^ 0x55; }

// Registers and stack that its predecessor may have wanted to keep.
PROGRAM(busy) {
  volatile __u64 words[16];
#pragma unroll
  for (int i = 0; i < 16; i++) words[i] = ctx->args[i % 6] * (i + 3);
  __u64 sum = 0, product = 1, mix = 7;
  for (int i = 0; i < 16; i++) {
    sum += words[i];
    product *= words[i] | 1;
    mix ^= words[i] >> i;
  }
  return (int)(sum ^ product ^ mix ^ bpf_get_smp_processor_id() * 0);
}

// Goes on with itself until there were enough.
PROGRAM(chain) {
  int n = next();
  bpf_tail_call(ctx, &programs, CHAIN);
  return n;
}
PROGRAM(by_turns) {
  int n = next();
  bpf_tail_call(ctx, &programs, (__u32)n % 3 == 0 ? CHAIN : TURNS);
  return -n;
}

NOINLINE int branch(struct bpf_raw_tracepoint_args* ctx) {
  bpf_tail_call(ctx, &programs, TREE);
  return 1;
}
// Two of each: one count for all of them.
PROGRAM(tree) {
  next();
  int a = branch(ctx);
  int b = branch(ctx);
  __u64* n = count();
  return (n ? (int)*n : 0) * 100 + a + b;
}

NOINLINE int descend(struct bpf_raw_tracepoint_args* ctx) {
  bpf_tail_call(ctx, &programs, DEEP);
  return 1000;
}
PROGRAM(deep) {
  volatile __u64 kept[8];
#pragma unroll
  for (int i = 0; i < 8; i++) kept[i] = ctx->args[i % 6] + i;
  int n = next();
  int below = descend(ctx);
  __u64 sum = 0;
  for (int i = 0; i < 8; i++) sum += kept[i];
  return below + n + (int)(sum % 1000);
}

// ---- who begins

PROGRAM(to_leaf) {
  bpf_tail_call(ctx, &programs, LEAF);
  return -1;
}
PROGRAM(to_empty) {
  bpf_tail_call(ctx, &programs, NOTHING);
  return 77;
}
PROGRAM(to_last) {
  bpf_tail_call(ctx, &programs, SIZE - 1);
  return 78;
}
PROGRAM(beyond) {
  bpf_tail_call(ctx, &programs, SIZE);
  return 79;
}
PROGRAM(far_beyond) {
  bpf_tail_call(ctx, &programs, 0xffffffff);
  return 80;
}
PROGRAM(chosen) {
  bpf_tail_call(ctx, &programs, ctx->args[0]);
  return 81;
}
PROGRAM(half_of_a_number) {
  // The upper half means nothing.
  asm volatile(
      "r1 = %[ctx]\n"
      "r2 = %[programs] ll\n"
      "r3 = 0x700000001 ll\n"
      "call %[tail]\n" ::[ctx] "r"(ctx),
      [programs] "i"(&programs), [tail] "i"(BPF_FUNC_tail_call)
      : "r0", "r1", "r2", "r3", "r4", "r5", "memory");
  return 82;
}
PROGRAM(second_choice) {
  bpf_tail_call(ctx, &programs, NOTHING);
  bpf_tail_call(ctx, &programs, OTHER);
  return 83;
}
PROGRAM(chained) {
  start();
  bpf_tail_call(ctx, &programs, CHAIN);
  return -1;
}
PROGRAM(turned) {
  start();
  bpf_tail_call(ctx, &programs, TURNS);
  return -1;
}
PROGRAM(grown) {
  start();
  bpf_tail_call(ctx, &programs, TREE);
  return -1;
}
PROGRAM(dug) {
  start();
  bpf_tail_call(ctx, &programs, DEEP);
  return -1;
}

NOINLINE int leave(struct bpf_raw_tracepoint_args* ctx, __u32 index) {
  bpf_tail_call(ctx, &programs, index);
  return 5;
}
// A function's caller goes on, with what the other program returned.
PROGRAM(come_back) { return leave(ctx, LEAF) * 2 + 1; }
PROGRAM(come_back_empty) { return leave(ctx, NOTHING) * 2 + 1; }
PROGRAM(keep_registers) {
  __u64 a = ctx->args[1] | 1, b = ctx->args[2] + 3, c = ctx->args[3] ^ 9, d = ctx->args[4];
  volatile __u64 e = ctx->args[5];
  int r = leave(ctx, BUSY);
  int s = leave(ctx, (ctx->args[0] & 1) ? BUSY : NOTHING);
  return (int)(r + s + a * 3 + b * 5 + c * 7 + d * 11 + e * 13);
}
PROGRAM(functions_between) {
  int n = leave(ctx, OTHER);
  if (n & 1) bpf_tail_call(ctx, &programs, LEAF);
  return n + leave(ctx, LEAF);
}

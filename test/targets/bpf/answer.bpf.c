// SPDX-License-Identifier: MIT
// Gives a function's result in its place. CASE chooses how.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

__u64 runs;
const volatile int never;

#ifndef PLACE
#define PLACE "replace"
#endif

#define ALWAYS 1     // 42, whatever the arguments
#define SOMETIMES 2  // -5 for seven, the function itself for the others
#define ARGUMENTS 3  // the function with other arguments
#define BOTH 4       // a result in two registers
#define WRITES 5     // to a register that is nobody's argument: refused
#ifndef CASE
#define CASE SOMETIMES
#endif

SEC(PLACE)
long answer(struct pt_regs* ctx) {
  __sync_fetch_and_add(&runs, 1);
#if CASE == ALWAYS
  return 42;
#elif CASE == SOMETIMES
  if (PT_REGS_PARM1(ctx) == 7) bpf_override_return(ctx, -5);
  return 0;
#elif CASE == ARGUMENTS
  ctx->rdi = 1000;
  ctx->r9 = 9;
  if (never) bpf_override_return(ctx, 0);  // that it may is what lets the function run
  return 0;
#elif CASE == BOTH
  ctx->rdx = 22;
  return 11;
#elif CASE == WRITES
  ctx->rbx = 1;
  return 0;
#endif
}

#ifdef TWO_PROGRAMS
SEC("replace")
long other(struct pt_regs* ctx) { return 1; }
#endif

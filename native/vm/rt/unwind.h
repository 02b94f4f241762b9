/* SPDX-License-Identifier: MIT */
/* Callers of the place where a probe stands, by the unwind tables that the daemon made of .eh_frame
 * (../../abi/unwind.h), and by frame pointers where there are none: code of a JIT, Go, assembler.
 *
 * Takes no lock and allocates nothing; at most `skip` + `count_max` steps, and the stack is only
 * read by guarded loads. */
#ifndef BPFTIME_RT_UNWIND_H
#define BPFTIME_RT_UNWIND_H

#include "../../abi/frame.h"
#include "../../abi/unwind.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#define RT_STACK_FRAMES_MAX 127u /* the kernel's default of perf_event_max_stack */

/* Addresses from where the probe is outwards, without the first `skip`; how many. */
u32 rt_stack_walk(const struct probe_frame* frame, u32 skip, u64* out, u32 count_max);

/* As the kernel's struct bpf_stack_build_id. */
struct rt_build_id {
  s32 status; /* RT_BUILD_ID_* */
  u8 build_id[UNWIND_BUILD_ID_BYTES];
  u64 where; /* offset in the file, or the address */
};
#define RT_BUILD_ID_VALID 1
#define RT_BUILD_ID_IP 2
/* Files and offsets instead of addresses, where the module of an address is known and has an id. */
void rt_stack_build_ids(const u64* ips, u32 count, struct rt_build_id* out);

/* What `addr`, found in a return slot, stands for: what our trampolines replaced it for, or itself.
 * Of the agent; where nothing is replaced, in hosted.c. */
u64 rt_true_return(u64 slot, u64 addr);

/* The module of an address in the current half of an index, or null. */
const struct unwind_module* rt_unwind_module(const struct unwind_index* index, u64 addr);
/* The rule for the instruction at `addr`, which lies in `module`. */
u32 rt_unwind_rule(const struct unwind_module* module, u64 addr);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

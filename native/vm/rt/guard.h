/* SPDX-License-Identifier: MIT */
/* Reading and writing memory that may not be there.
 *
 * rt_env.guard_mode 0: process_vm_readv on ourselves, right everywhere (about 1 us).
 * rt_env.guard_mode 1: plain loads, after one system call unless rt_mask_is_open(). Whoever sets it
 * owns SIGSEGV and SIGBUS: a fault whose rip is in [rt_guard_begin, rt_guard_end) is answered by
 * setting rip to rt_guard_fixup, nothing else. */
#ifndef BPFTIME_RT_GUARD_H
#define BPFTIME_RT_GUARD_H

#include "../../abi/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#pragma GCC visibility push(hidden)
extern const char rt_guard_begin[], rt_guard_end[], rt_guard_fixup[];
#pragma GCC visibility pop

/* 0, or -EFAULT with dst zeroed. */
long rt_read_user(void* dst, u64 src, u64 len);
/* Length with its NUL (truncated to size, always terminated), or -EFAULT with dst zeroed. */
long rt_read_user_str(void* dst, u64 src, u64 size);
/* As rt_read_user, whatever guard_mode says, without a fault. */
long rt_read_by_kernel(void* dst, u64 src, u64 len);
/* 0 or -EFAULT; honours page protections. */
long rt_write_user(u64 dst, const void* src, u64 len);

/* Words that lie close to one another, as those of a stack do, for the price of few reads: signals
 * are let through once, and where the kernel reads it does so by the piece. */
#define RT_READS_WORDS 64u
struct rt_reads {
  u64 blocked;
  u64 start; /* of what the kernel read; aligned */
  u64 count; /* words of it */
  u64 words[RT_READS_WORDS];
};
void rt_reads_begin(struct rt_reads* reads);
void rt_reads_end(const struct rt_reads* reads);
/* 0, or -EFAULT with *out zeroed. */
long rt_reads_word(struct rt_reads* reads, u64 addr, u64* out);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

/* SPDX-License-Identifier: MIT */
/* Bloom filters; map.c dispatches to these. A value sets some bits, all of which are there when it
 * is asked for again; bits are never taken back. No lock: a bit is set by one instruction. */
#ifndef BPFTIME_RT_BLOOM_H
#define BPFTIME_RT_BLOOM_H

#include "map.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#define RT_BLOOM_HASHES_MAX 15u

struct rt_bloom_ctl {
  u64 seed;
  u32 hashes; /* for the daemon that adopts the map, nobody else: geometry is private */
  u32 pad[13];
};
ABI_ASSERT(sizeof(struct rt_bloom_ctl) == 64, "the bits begin behind it");

int rt_bloom_layout(struct vm_map* map);
long rt_bloom_add(const struct vm_map* map, const void* value, u64 flags);
long rt_bloom_test(const struct vm_map* map, const void* value); /* 0, or -ENOENT: never added */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

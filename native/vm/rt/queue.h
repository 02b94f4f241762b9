/* SPDX-License-Identifier: MIT */
/* Queues and stacks; map.c dispatches to these.
 *
 * Values lie in a ring of 2^k slots, more than max_entries of them: a slot is always free. One
 * 64-bit word says which are in use and is stored once per change, after the value was written, so
 * a writer may die anywhere. Writers hold one lock (rt.h: taken over from the dead); who only looks
 * does so between two equal, even counts of `changes`, and takes the lock if writers keep it from
 * that. */
#ifndef BPFTIME_RT_QUEUE_H
#define BPFTIME_RT_QUEUE_H

#include "map.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

struct rt_queue_ctl {
  u64 range;   /* head << 32 | tail: positions, counted on and on; slot = position % slots */
  u64 changes; /* odd while a writer is inside, or died there */
  u32 owner;   /* lock */
  u32 pad[11];
};
ABI_ASSERT(sizeof(struct rt_queue_ctl) == 64, "the values begin behind it");

int rt_queue_layout(struct vm_map* map);
long rt_queue_push(const struct vm_map* map, const void* value, u64 flags);
/* The oldest of a queue, the newest of a stack; -ENOENT (and zeroes) if there is none. */
long rt_queue_take(const struct vm_map* map, void* value_out, int remove);
/* As rt_map_iterate: from the oldest to the newest. */
long rt_queue_iterate(const struct vm_map* map, u64* cursor, void* value_out);
u32 rt_queue_count(const struct vm_map* map);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

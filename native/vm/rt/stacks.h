/* SPDX-License-Identifier: MIT */
/* STACK_TRACE maps, which keep each stack once under an id that its hash gives; map.c dispatches to
 * these. The stacks themselves: unwind.h.
 *
 * A bucket's word says whose it is: hash << 32 | the writer's id (rt.h), or RT_STACK_DONE. Who
 * finds its own hash takes the id, whether the writer has finished or not; one that died half-way
 * is replaced when its bucket is wanted again, and is never shown. No lock, no waiting. */
#ifndef BPFTIME_RT_STACKS_H
#define BPFTIME_RT_STACKS_H

#include "map.h"
#include "unwind.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#define RT_STACK_FAST_COMPARE (1ull << 9)
#define RT_STACK_REUSE (1ull << 10)
#define RT_STACK_DONE 0xffffffffu

struct rt_stack_bucket {
  u64 word;
  u64 count; /* of addresses, which follow; above, how often it was written << 32 */
};

int rt_stacks_layout(struct vm_map* map);
/* The id, or -EEXIST: its bucket has another stack (and RT_STACK_REUSE was not asked for). */
long rt_stacks_put(const struct vm_map* map, const u64* ips, u32 count, u64 flags);
long rt_stacks_read(const struct vm_map* map, u32 id, void* value_out);
long rt_stacks_delete(const struct vm_map* map, u32 id);
long rt_stacks_next(const struct vm_map* map, const void* key, void* next_out);
long rt_stacks_iterate(const struct vm_map* map, u64* cursor, void* key_out, void* value_out);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

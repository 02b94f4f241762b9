/* SPDX-License-Identifier: MIT */
/* TASK_STORAGE: one value for each thread that asked for one; map.c dispatches to these.
 *
 * Underneath a hash whose keys are struct rt_task_key. A thread's number is given to another one
 * when it has ended, so the key has its thread pointer, too; entries of threads that are gone are
 * deleted by the next threads that come (a few each), and before anybody looks at the map. Storage
 * needs nobody's help that way: it works while no daemon is there. docs/adr/0032-task-storage.md.
 */
#ifndef BPFTIME_RT_TASKS_H
#define BPFTIME_RT_TASKS_H

#include "map.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#define RT_TASKS_MAX 65536u /* threads with a value at the same time */
#define RT_TASK_CREATE 1ull /* BPF_LOCAL_STORAGE_GET_F_CREATE */
#define RT_TASK_SWEEP_STEPS 8u

struct rt_task_key {
  u32 tid;            /* as the thread's own pid namespace has it */
  u32 owner;          /* the same as locks have it (rt.h), to tell whether it lives */
  u64 thread_pointer; /* 0: not known */
};

/* What bpf_get_current_task_btf gives: a number that means nothing to programs, and is not 0. */
u64 rt_task_current(void);

/* The value of the thread that runs, made of `initial` (null: zeroes) where flags say so; or null.
 */
void* rt_task_get(const struct vm_map* map, const void* initial, u64 flags);
long rt_task_delete(const struct vm_map* map);

int rt_tasks_layout(struct vm_map* map);
/* Deletes what ended threads left; of other pid namespaces nothing is known. For the daemon. */
void rt_tasks_sweep(const struct vm_map* map);
/* As those of map.h; keys are thread ids. */
long rt_tasks_iterate(const struct vm_map* map, u64* cursor, void* key_out, u8** value_out);
long rt_tasks_delete_tid(const struct vm_map* map, u32 tid);
u32 rt_tasks_count(const struct vm_map* map);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

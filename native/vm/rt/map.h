/* SPDX-License-Identifier: MIT */
/* Maps in shared memory: what helpers, JIT code and the daemon do with a `struct vm_map`.
 *
 * Addresses that generated code may compute itself (geometry is private, so no check is needed
 * beyond key < max_entries):
 *   ARRAY         base + data_off + key * value_stride
 *   PERCPU_ARRAY  base + data_off + cpu * elem_stride + key * value_stride
 *                 elem_stride is one CPU's block, a multiple of 64: CPUs never share a cache line
 *   HASH, LRU     element i (0-based): base + data_off + i * elem_stride, laid out as
 *                 struct rt_elem, key rounded up to 8, then the value; value_stride bytes per CPU
 *   *_OF_MAPS     a value is the number of an inner map: its view is so many places behind ours
 *   PROG_ARRAY    as ARRAY; a value is the number of a program, see vm/tail_call.h
 *   others        LPM_TRIE, TASK_STORAGE as HASH (lpm.h, tasks.h); queue.h; bloom.h; RINGBUF is
 *                 ring 0 of ring.h, PERF_EVENT_ARRAY one ring per CPU
 * Values keep their address from insertion to deletion. An update of an existing key overwrites
 * the value in place, eight bytes at a time (the kernel swaps in another element): a concurrent
 * reader of a value longer than 8 bytes may see parts of both. Deleted elements are reused at
 * once, as in the kernel's preallocated tables.
 *
 * Lookups take no lock and no system call. Writers lock one bucket with their thread id; a lock
 * whose owner died is taken over, one whose owner lives but does not run costs at most 10 ms. */
#ifndef BPFTIME_RT_MAP_H
#define BPFTIME_RT_MAP_H

#include "../../abi/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#define RT_MAP_BYTES_MAX (1ull << 32) /* storage of one map, sparse */
#define RT_KEY_BYTES_MAX 512u
#define RT_VALUE_BYTES_MAX (1u << 24)
#define RT_PERF_RING_BYTES 65536u /* data bytes of each CPU's ring of a PERF_EVENT_ARRAY */

/* Header of a hash element; links are index + 1, never pointers. */
struct rt_elem {
  u32 next; /* in its bucket; RT_NULLS | bucket at the end of a chain */
  u32 hash;
  u32 free_next; /* in the free list; apart from `next` so that readers get off a freed element */
  u32 state;     /* RT_ELEM_*, or the owner (rt.h) that is moving it, | RT_ELEM_DELETING */
};
struct rt_bucket {
  u32 head;  /* 0 or RT_NULLS|x: empty */
  u32 owner; /* lock: thread id, 0 free */
  u32 spare; /* element that waits for the next key of this bucket, 0: none; under the lock */
  u32 reserved;
};
#define RT_HASH_MULTIPLIER 0x9e3779b97f4a7c15ull
#define RT_NULLS 0x80000000u
#define RT_ELEM_FREE 0u
#define RT_ELEM_LINKED 0xffffffffu
#define RT_ELEM_SPARE 0xfffffffeu
#define RT_ELEM_DELETING (1u << 23)

/* First page of a hash's storage. */
struct rt_hash_ctl {
  u64 seed; /* keeps keys from being chosen to collide */
  u64 pad0[7];
  u64 free_head; /* generation << 32 | element index + 1 */
  u32 fresh;     /* elements handed out at least once: the others need no free list */
  u32 swept;     /* those of them that cannot be spare any more */
  u32 hand;      /* LRU: next candidate */
  u32 reclaim;   /* next element to look at for a dead owner */
};

/* Computes geometry and storage_bytes from type, key_size, value_size, max_entries, map_flags and
 * cpu_count; of a bloom filter, from the number of hashes in elem_stride, too (0: five). 0, or what
 * BPF_MAP_CREATE would say: -EINVAL, -E2BIG. */
int rt_map_layout(struct vm_map* map);
/* Prepares zeroed storage at map->base, once, before anyone else sees it. */
void rt_map_init(const struct vm_map* map);

/* For programs: address of the value (of this CPU), 0 if there is none; of a map of maps the inner
 * map's view. */
void* rt_map_lookup(const struct vm_map* map, const void* key);
void* rt_map_lookup_percpu(const struct vm_map* map, const void* key, u32 cpu);
/* For programs: per-CPU maps write this CPU's value. Kernel return values, or -EBUSY when the
 * bucket could not be locked (also when a signal handler interrupted a writer of the bucket). */
long rt_map_update(const struct vm_map* map, const void* key, const void* value, u64 flags);
long rt_map_delete(const struct vm_map* map, const void* key);

/* Calls fn(map, key, value of this CPU, arg) for each entry of an array or hash until it returns
 * something else than 0. How often it was called. */
typedef u64 rt_each_fn(u64 map, u64 key, u64 value, u64 arg, u64 unused);
long rt_map_for_each(const struct vm_map* map, rt_each_fn* fn, u64 arg);

/* Queues, stacks and bloom filters, for programs and the daemon. Of a bloom filter peek asks
 * whether the value was ever pushed. -ENOENT: empty, or never pushed; -E2BIG: full; -EBUSY as
 * above. */
long rt_map_push(const struct vm_map* map, const void* value, u64 flags);
long rt_map_pop(const struct vm_map* map, void* value_out);
long rt_map_peek(const struct vm_map* map, void* value);

/* For the daemon. Per-CPU values: cpu_count values, each rounded up to 8 bytes. */
u64 rt_map_value_bytes(const struct vm_map* map); /* what the next two copy */
long rt_map_read(const struct vm_map* map, const void* key, void* value_out);
long rt_map_write(const struct vm_map* map, const void* key, const void* value, u64 flags);
/* Key after `key` (null: the first); -ENOENT at the end. */
long rt_map_next_key(const struct vm_map* map, const void* key, void* next_out);
/* Next entry at or after *cursor (start with 0) in storage order; -ENOENT at the end. Each entry
 * that stays in the map is seen exactly once. */
long rt_map_iterate(const struct vm_map* map, u64* cursor, void* key_out, void* value_out);
/* Number of entries in use, found by looking at all (hash: approximate while writers run). */
u32 rt_map_count(const struct vm_map* map);

int rt_map_is_percpu(const struct vm_map* map);
int rt_map_is_hash(const struct vm_map* map);
int rt_map_is_nested(const struct vm_map* map);   /* its values are maps */
int rt_map_is_programs(const struct vm_map* map); /* its values are programs */
int rt_map_is_keyless(const struct vm_map* map);  /* of those that rt_map_push takes */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

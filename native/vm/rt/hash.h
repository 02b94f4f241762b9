/* SPDX-License-Identifier: MIT */
/* Hash maps of every flavour; map.c dispatches to these. */
#ifndef BPFTIME_RT_HASH_H
#define BPFTIME_RT_HASH_H

#include "map.h"
#include "rt.h"

#pragma GCC visibility push(hidden)

enum rt_value_source { RT_VALUE_THIS_CPU, RT_VALUE_ALL_CPUS };

u8* rt_hash_find(const struct vm_map* map, const void* key, int touch); /* first CPU's value */
long rt_hash_update(const struct vm_map* map, const void* key, const void* value, u64 flags,
                    enum rt_value_source source);
long rt_hash_delete(const struct vm_map* map, const void* key);
long rt_hash_next_key(const struct vm_map* map, const void* key, void* next_out);
/* Without key_out: the key lies before the value, rounded up to 8 bytes. */
long rt_hash_iterate(const struct vm_map* map, u64* cursor, void* key_out, u8** value_out);
u32 rt_hash_count(const struct vm_map* map);
u64 rt_hash_ref_bytes(const struct vm_map* map); /* LRU marks, behind the buckets */
#pragma GCC visibility pop

#endif

/* SPDX-License-Identifier: MIT */
/* Longest prefix match over a hash (hash.h); map.c dispatches to these.
 *
 * A prefix is an element whose key is its length and its bits, all others cleared. Which lengths
 * were ever used is a bit set that only grows: a lookup tries those, the longest first, so it costs
 * one hash lookup per length in use. What hash.c promises of dead writers, stable addresses and
 * lookups without a lock holds here, too. */
#ifndef BPFTIME_RT_LPM_H
#define BPFTIME_RT_LPM_H

#include "map.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#define RT_LPM_DATA_BYTES_MAX 256u

/* Behind rt_hash_ctl in the first page. */
#define RT_LPM_CTL_OFF 1024u
struct rt_lpm_ctl {
  u64 deletions; /* before each: lookups that saw it change begin again */
  u64 lengths[RT_LPM_DATA_BYTES_MAX * 8 / 64 + 1];
};

int rt_lpm_check(const struct vm_map* map);                 /* key size; the rest is a hash's */
u8* rt_lpm_find(const struct vm_map* map, const void* key); /* longest that covers it */
long rt_lpm_update(const struct vm_map* map, const void* key, const void* value, u64 flags);
long rt_lpm_delete(const struct vm_map* map, const void* key);
long rt_lpm_next_key(const struct vm_map* map, const void* key, void* next_out);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

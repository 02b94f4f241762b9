/* SPDX-License-Identifier: MIT */
/* Prototypes of the helper functions, generated from helper_list.h, and the hosted table. */
#ifndef BPFTIME_RT_HELPERS_H
#define BPFTIME_RT_HELPERS_H

#include "../../abi/runtime.h"
#include "helper_list.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

typedef u64 rt_helper_fn(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5);

#define RT_DECLARE_HELPER(id, name, fn) u64 fn(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5);
RT_HELPERS(RT_DECLARE_HELPER)
#undef RT_DECLARE_HELPER

/* What every helper reads; defined in env.c. */
extern struct rt_env rt_env;

/* Hosted only (table.c): address and name of a helper, null if there is none. */
const void* rt_helper(u32 id);
const char* rt_helper_name(u32 id);
/* Hosted only (hosted.c): fills in rt_env for this process, any number of times. */
void rt_env_init_hosted(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

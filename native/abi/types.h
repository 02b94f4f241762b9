/* SPDX-License-Identifier: MIT */
/* Fixed-width names for the structs that addon, VM and agent share. No other header may be
 * included by the agent. Little endian, x86-64 System V layout throughout. */
#ifndef BPFTIME_ABI_TYPES_H
#define BPFTIME_ABI_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

#ifdef __cplusplus
#define ABI_ASSERT(cond, why) static_assert(cond, why)
#else
#define ABI_ASSERT(cond, why) _Static_assert(cond, why)
#endif

#define ABI_PAGE_BYTES 4096u

#endif

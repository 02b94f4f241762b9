/* SPDX-License-Identifier: MIT */
/* The kernel's printf subset for programs: trace_printk, trace_vprintk, snprintf. */
#ifndef BPFTIME_RT_FORMAT_H
#define BPFTIME_RT_FORMAT_H

#include "../../abi/runtime.h"

#pragma GCC visibility push(hidden)

/* Formats into out (size >= 1, always terminated). Returns the length without NUL that the text
 * would have had, or -EINVAL: format not terminated, not ASCII, unknown conversion, too few args.
 */
long rt_format(char* out, u32 out_size, const char* format, u32 format_size, const u64* args,
               u32 arg_count);
#pragma GCC visibility pop

#endif

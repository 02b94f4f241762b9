/* SPDX-License-Identifier: MIT */
/* bpf_strtol and bpf_strtoul: numbers from text of a given length, as the kernel reads them. */
#ifndef BPFTIME_RT_NUMBER_H
#define BPFTIME_RT_NUMBER_H

#include "../../abi/types.h"

#pragma GCC visibility push(hidden)

/* `flags`: the base, 8, 10 or 16; 0: by the prefix. Characters read, or -EINVAL, -ERANGE; *out is 0
 * then. */
long rt_parse_long(const char* text, u64 len, u64 flags, s64* out);
long rt_parse_ulong(const char* text, u64 len, u64 flags, u64* out);

#pragma GCC visibility pop
#endif

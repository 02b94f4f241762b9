/* SPDX-License-Identifier: MIT */
/* The compiler may emit calls to these; in the agent nobody else has them. Not part of the hosted
 * library, where they would displace libc's faster ones. */
#include "rt.h"

void* memcpy(void* dst, const void* src, size_t len);
void* memset(void* dst, int byte, size_t len);

void* memcpy(void* dst, const void* src, size_t len) {
  rt_memcpy(dst, src, len);
  return dst;
}
void* memset(void* dst, int byte, size_t len) {
  rt_memset(dst, byte, len);
  return dst;
}

/* SPDX-License-Identifier: MIT */
/* Copying and comparing bytes without a libc. */
#include "rt.h"

typedef u64 __attribute__((may_alias, aligned(1))) u64_any;
typedef u32 __attribute__((may_alias, aligned(1))) u32_any;

void rt_memcpy(void* dst, const void* src, u64 len) {
  u8* d = dst;
  const u8* s = src;
  if (len >= 256) {
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(len) : : "memory");
    return;
  }
  while (len >= 8) {
    *(u64_any*)d = *(const u64_any*)s;
    d += 8;
    s += 8;
    len -= 8;
  }
  while (len-- != 0) *d++ = *s++;
}

void rt_memset(void* dst, int byte, u64 len) {
  __asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(byte) : "memory");
}

int rt_memeq(const void* a, const void* b, u64 len) {
  const u8* x = a;
  const u8* y = b;
  while (len >= 8) {
    if (*(const u64_any*)x != *(const u64_any*)y) return 0;
    x += 8;
    y += 8;
    len -= 8;
  }
  while (len-- != 0) {
    if (*x++ != *y++) return 0;
  }
  return 1;
}

/* dst is 8-aligned and has room for len rounded up; src may be neither. */
void rt_copy_words(void* dst, const void* src, u64 len) {
  u64* d = dst;
  const u8* s = src;
  while (len >= 8) {
    rt_store(d, *(const u64_any*)s);
    d++;
    s += 8;
    len -= 8;
  }
  if (len == 4) {
    rt_store((u32_any*)d, *(const u32_any*)s);
  } else if (len != 0) {
    u8* tail = (u8*)d;
    while (len-- != 0) *tail++ = *s++;
  }
}

void rt_zero_words(void* dst, u64 len) {
  u64* d = dst;
  for (u64 i = 0; i < (len + 7) / 8; i++) rt_store(&d[i], 0);
}

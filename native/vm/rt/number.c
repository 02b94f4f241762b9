/* SPDX-License-Identifier: MIT */
#include "number.h"

#include "rt.h"

#define BASE_MASK 0x1full
#define DIGITS_MAX 63u /* with the prefix: what is behind them is not looked at */

RT_INLINE int is_space(u8 c) { return c == ' ' || (c >= '\t' && c <= '\r') || c == 0xa0; }

/* 16 and more: no digit. */
RT_INLINE u32 digit_of(u8 c) {
  if (c >= '0' && c <= '9') return c - '0';
  u8 lower = c | 0x20;
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10u : 99;
}

struct number {
  u64 magnitude;
  int is_negative;
};

static long parse(const char* text, u64 len, u64 flags, struct number* number) {
  const u8* at = (const u8*)text;
  const u8* end = at + len;
  u32 base = (u32)(flags & BASE_MASK);
  if (len == 0 || (flags & ~BASE_MASK) != 0) return -RT_EINVAL;
  if (base != 0 && base != 8 && base != 10 && base != 16) return -RT_EINVAL;
  while (at < end && is_space(*at)) at++;
  number->is_negative = at < end && *at == '-';
  at += number->is_negative;
  if (at == end) return -RT_EINVAL;
  if ((u64)(end - at) > DIGITS_MAX) end = at + DIGITS_MAX;
  int has_x = end - at >= 2 && at[0] == '0' && (at[1] | 0x20) == 'x';
  if (base == 0) {
    base = at[0] != '0' ? 10 : has_x && end - at >= 3 && digit_of(at[2]) < 16 ? 16 : 8;
  }
  if (base == 16 && has_x) at += 2;
  const u8* first = at;
  u64 value = 0;
  int is_too_large = 0;
  for (; at < end && digit_of(*at) < base; at++) {
    is_too_large |= __builtin_mul_overflow(value, base, &value);
    is_too_large |= __builtin_add_overflow(value, digit_of(*at), &value);
  }
  if (is_too_large) return -RT_ERANGE;
  if (at == first) return -RT_EINVAL;
  number->magnitude = value;
  return at - (const u8*)text;
}

long rt_parse_long(const char* text, u64 len, u64 flags, s64* out) {
  struct number number;
  s64 value = 0;
  long ret = parse(text, len, flags, &number);
  if (ret >= 0) {
    u64 limit = number.is_negative ? 1ull << 63 : (1ull << 63) - 1;
    if (number.magnitude > limit) {
      ret = -RT_ERANGE;
    } else {
      value = (s64)(number.is_negative ? 0 - number.magnitude : number.magnitude);
    }
  }
  rt_memcpy(out, &value, sizeof(value));
  return ret;
}

long rt_parse_ulong(const char* text, u64 len, u64 flags, u64* out) {
  struct number number;
  long ret = parse(text, len, flags, &number);
  if (ret >= 0 && number.is_negative) ret = -RT_EINVAL;
  u64 value = ret < 0 ? 0 : number.magnitude;
  rt_memcpy(out, &value, sizeof(value));
  return ret;
}

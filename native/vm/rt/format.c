/* SPDX-License-Identifier: MIT */
/* printf for programs: what Documentation of bpf_trace_printk and bpf_snprintf allows, with strings
 * and addresses read guarded. Pointers are printed in full: a program sees its own process only. */
#include "format.h"

#include "guard.h"
#include "rt.h"

#define STRING_BYTES_MAX 512u
#define STRING_STEP_BYTES 64u

struct sink {
  char* out;
  u32 size;
  u32 len; /* what was asked for, may exceed size */
};

struct spec {
  u32 width;
  u8 left, zero, plus, space, alternate;
};

static void put(struct sink* sink, char c) {
  if (sink->len + 1 < sink->size) sink->out[sink->len] = c;
  sink->len++;
}

static void put_repeated(struct sink* sink, char c, u32 count) {
  while (count-- != 0) put(sink, c);
}

static void put_text(struct sink* sink, const struct spec* spec, const char* text, u32 len) {
  u32 pad = spec->width > len ? spec->width - len : 0;
  if (!spec->left) put_repeated(sink, ' ', pad);
  for (u32 i = 0; i < len; i++) put(sink, text[i]);
  if (spec->left) put_repeated(sink, ' ', pad);
}

/* base 10, 16, or 16 | 64 for capitals */
static void put_number(struct sink* sink, const struct spec* spec, u64 value, int negative,
                       u32 base) {
  char digits[24];
  u32 count = 0;
  char letter = (base & 64) != 0 ? 'A' : 'a';
  do {
    u32 digit = (u32)(value % (base & 63));
    digits[count++] = (char)(digit < 10 ? '0' + digit : letter + (digit - 10));
    value /= base & 63;
  } while (value != 0);
  char prefix[3];
  u32 prefix_len = 0;
  if (negative) {
    prefix[prefix_len++] = '-';
  } else if (spec->plus || spec->space) {
    prefix[prefix_len++] = spec->plus ? '+' : ' ';
  }
  if (spec->alternate && (base & 63) == 16) {
    prefix[prefix_len++] = '0';
    prefix[prefix_len++] = (base & 64) != 0 ? 'X' : 'x';
  }
  u32 pad = spec->width > count + prefix_len ? spec->width - count - prefix_len : 0;
  if (!spec->left && !spec->zero) put_repeated(sink, ' ', pad);
  for (u32 i = 0; i < prefix_len; i++) put(sink, prefix[i]);
  if (!spec->left && spec->zero) put_repeated(sink, '0', pad);
  while (count != 0) put(sink, digits[--count]);
  if (spec->left) put_repeated(sink, ' ', pad);
}

/* In steps, because stack is scarce: with `emit` 0 only measures. */
static u32 walk_string(struct sink* sink, u64 addr, int emit) {
  char text[STRING_STEP_BYTES + 1];
  u32 len = 0;
  while (len < STRING_BYTES_MAX) {
    long got = rt_read_user_str(text, addr + len, sizeof(text));
    u32 count = got > 0 ? (u32)got - 1 : 0;
    for (u32 i = 0; emit && i < count; i++) put(sink, text[i]);
    len += count;
    if (count < STRING_STEP_BYTES) break;
  }
  return len;
}

static void put_string(struct sink* sink, const struct spec* spec, u64 addr) {
  if (spec->width != 0 && !spec->left) {
    u32 len = walk_string(sink, addr, 0);
    put_repeated(sink, ' ', spec->width > len ? spec->width - len : 0);
  }
  u32 len = walk_string(sink, addr, 1);
  if (spec->left) put_repeated(sink, ' ', spec->width > len ? spec->width - len : 0);
}

/* %pi4 %pI4 %pi6 %pI6: an IP address in network order. */
static void put_ip(struct sink* sink, u64 addr, int version6, int plain) {
  u8 bytes[16];
  u32 count = version6 ? 16 : 4;
  if (rt_read_user(bytes, addr, count) != 0) return;
  struct spec spec = {0, 0, 1, 0, 0, 0};
  for (u32 i = 0; i < count; i++) {
    if (i != 0 && !version6) put(sink, '.');
    if (i != 0 && version6 && !plain && i % 2 == 0) put(sink, ':');
    spec.width = version6 ? 2 : plain ? 3 : 0;
    put_number(sink, &spec, bytes[i], 0, version6 ? 16 : 10);
  }
}

/* Conversions that start with 'p'; returns characters used after the 'p', or -EINVAL. */
static long put_pointer(struct sink* sink, struct spec* spec, const char* at, u64 value) {
  if ((at[0] == 'k' || at[0] == 'u') && at[1] == 's') {
    put_string(sink, spec, value);
    return 2;
  }
  if (at[0] == 'i' || at[0] == 'I') {
    if (at[1] != '4' && at[1] != '6') return -RT_EINVAL;
    put_ip(sink, value, at[1] == '6', at[0] == 'i');
    return 2;
  }
  int known = at[0] == 'x' || at[0] == 's' || at[0] == 'S' || at[0] == 'B';
  int ends = at[0] == 0 || at[0] == ' ' || (at[0] >= '!' && at[0] <= '/') ||
             (at[0] >= ':' && at[0] <= '@') || (at[0] >= '[' && at[0] <= '`') || at[0] >= '{' ||
             at[0] == '\n' || at[0] == '\t';
  if (!known && !ends) return -RT_EINVAL;
  /* %px is plain hex; %p is padded to the width of an address, as in the kernel. */
  if (at[0] != 'x' && spec->width == 0) {
    spec->width = 16;
    spec->zero = 1;
  }
  put_number(sink, spec, value, 0, 16);
  return known ? 1 : 0;
}

static const char* parse_spec(const char* at, struct spec* spec) {
  for (;; at++) {
    if (*at == '0')
      spec->zero = 1;
    else if (*at == '-')
      spec->left = 1;
    else if (*at == '+')
      spec->plus = 1;
    else if (*at == ' ')
      spec->space = 1;
    else if (*at == '#')
      spec->alternate = 1;
    else
      break;
  }
  for (; *at >= '0' && *at <= '9'; at++) {
    if (spec->width < 1000) spec->width = spec->width * 10 + (u32)(*at - '0');
  }
  return at;
}

/* One conversion; `at` is behind the '%'. Returns where it ends, null if it is not allowed. */
static const char* put_conversion(struct sink* sink, const char* at, u64 value) {
  struct spec spec = {0, 0, 0, 0, 0, 0};
  at = parse_spec(at, &spec);
  if (*at == 'p') {
    long used = put_pointer(sink, &spec, at + 1, value);
    return used < 0 ? 0 : at + 1 + used;
  }
  if (*at == 's') {
    put_string(sink, &spec, value);
    return at + 1;
  }
  if (*at == 'c') {
    char c = (char)value;
    put_text(sink, &spec, &c, 1);
    return at + 1;
  }
  u32 longs = 0;
  while (*at == 'l' && longs < 2) {
    longs++;
    at++;
  }
  if (*at == 'd' || *at == 'i') {
    s64 number = longs != 0 ? (s64)value : (s32)value;
    u64 magnitude = number < 0 ? 0 - (u64)number : (u64)number;
    put_number(sink, &spec, magnitude, number < 0, 10);
    return at + 1;
  }
  if (*at != 'u' && *at != 'x' && *at != 'X') return 0;
  spec.plus = spec.space = 0;
  u64 number = longs != 0 ? value : (u32)value;
  put_number(sink, &spec, number, 0, *at == 'u' ? 10 : *at == 'x' ? 16 : 16 | 64);
  return at + 1;
}

long rt_format(char* out, u32 out_size, const char* format, u32 format_size, const u64* args,
               u32 arg_count) {
  u32 format_len = 0;
  while (format_len < format_size && format[format_len] != 0) format_len++;
  if (format_len == format_size) return -RT_EINVAL;
  struct sink sink = {out, out_size, 0};
  u32 arg = 0;
  for (const char* at = format; *at != 0;) {
    u8 c = (u8)*at++;
    /* As the kernel: only printable ASCII and white space. */
    if (c >= 0x7f || (c < ' ' && !(c >= '\t' && c <= '\r'))) return -RT_EINVAL;
    if (c != '%') {
      put(&sink, (char)c);
    } else if (*at == '%') {
      put(&sink, *at++);
    } else {
      if (arg >= arg_count) return -RT_EINVAL;
      at = put_conversion(&sink, at, args[arg++]);
      if (at == 0) return -RT_EINVAL;
    }
  }
  if (out_size != 0) out[sink.len < out_size ? sink.len : out_size - 1] = 0;
  return (long)sink.len;
}

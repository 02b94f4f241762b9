// SPDX-License-Identifier: MIT
// Programs whose results must be the kernel's: bpf_same_test runs each on every engine and in the
// kernel, with the same arguments one after the other, and compares. args[0] counts from 0.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define PROGRAM(name) SEC("raw_tp/" #name) int name(struct bpf_raw_tracepoint_args* ctx)
#define MAP(name, kind, entries, key_type, value_type, map_flags_) \
  struct {                                                         \
    __uint(type, kind);                                            \
    __uint(max_entries, entries);                                  \
    __uint(map_flags, map_flags_);                                 \
    __type(key, key_type);                                         \
    __type(value, value_type);                                     \
  } name SEC(".maps")
#define KEYLESS(name, kind, entries, value_type) \
  struct {                                       \
    __uint(type, kind);                          \
    __uint(max_entries, entries);                \
    __type(value, value_type);                   \
  } name SEC(".maps")

struct prefix {
  __u32 len;
  __u32 bits;
};

MAP(table, BPF_MAP_TYPE_ARRAY, 8, __u32, __u64, 0);
MAP(counts, BPF_MAP_TYPE_HASH, 16, __u32, __u64, 0);
MAP(recent, BPF_MAP_TYPE_LRU_HASH, 16, __u64, __u64, 0);
MAP(routes, BPF_MAP_TYPE_LPM_TRIE, 16, struct prefix, __u32, BPF_F_NO_PREALLOC);
KEYLESS(queue, BPF_MAP_TYPE_QUEUE, 3, __u64);
KEYLESS(stack, BPF_MAP_TYPE_STACK, 3, __u64);
KEYLESS(filter, BPF_MAP_TYPE_BLOOM_FILTER, 512, __u32);

// ---- numbers from text

#define NUMBER(name, text, base)                                      \
  PROGRAM(name) {                                                     \
    char line[] = text;                                               \
    long number = -77;                                                \
    long used = bpf_strtol(line, sizeof(line) - 1, base, &number);    \
    unsigned long other = 77;                                         \
    long also = bpf_strtoul(line, sizeof(line) - 1, base, &other);    \
    return (used * 31 + also) * 31 + (int)(number ^ (number >> 32)) + \
           (int)(other ^ (other >> 32)) * 7;                          \
  }
NUMBER(decimal, "  1234 rest", 0)
NUMBER(negative, "-42", 10)
NUMBER(hexadecimal, "0xfFee", 0)
NUMBER(hexadecimal_base, "0x10", 16)
NUMBER(octal, "0779", 0)
NUMBER(only_prefix, "0x", 0)
NUMBER(only_prefix_base, "0x", 16)
NUMBER(no_digits, "  -", 0)
NUMBER(spaces, "      ", 0)
NUMBER(wrong_base, "12", 7)
NUMBER(signed_limit, "-9223372036854775808", 10)
NUMBER(signed_over, "9223372036854775808", 10)
NUMBER(unsigned_over, "18446744073709551616", 10)
NUMBER(long_line, "00000000000000000000000000000000000000000000000000000000000000000012", 10)
NUMBER(plus, "+5", 10)

// ---- text

PROGRAM(format) {
  char out[48];
  static const char fmt[] = "%d %5u|%-4x|%08llx|%%|%c|%s";
  char name[] = "abc";
  __u64 args[] = {(__u64)-3, 77, 0xab, ctx->args[0] * 0x123456789, 'q', (__u64)(long)name};
  long length = bpf_snprintf(out, sizeof(out), fmt, args, sizeof(args));
  int hash = length;
  for (int i = 0; i < 40; i++) hash = hash * 31 + (i < length ? out[i] : 0);
  return hash;
}
PROGRAM(format_cut) {
  char out[6] = "......";
  static const char fmt[] = "%llu and more";
  __u64 args[] = {ctx->args[0]};
  long length = bpf_snprintf(out, sizeof(out), fmt, args, sizeof(args));
  int hash = length;
  for (int i = 0; i < 6; i++) hash = hash * 31 + out[i];
  return hash;
}
PROGRAM(compare) {
  static const char other[] = "kernel";
  char mine[8] = "kernel";
  for (__u32 i = 0; i < sizeof(mine); i++) {
    if (i == (ctx->args[0] & 7)) mine[i] ^= ctx->args[1] & 3;
  }
  int result = bpf_strncmp(mine, sizeof(mine), other);
  return result < 0 ? -1 : result > 0;
}

// ---- callbacks

struct sum {
  __u64 total;
  __u32 limit;
};
static long add_round(__u64 i, struct sum* sum) {
  sum->total += i * 3 + 1;
  return sum->total > sum->limit;
}
PROGRAM(loops) {
  struct sum sum = {.limit = ctx->args[0] * 100};
  long rounds = bpf_loop(ctx->args[0] * 5, add_round, &sum, 0);
  return rounds * 1000 + sum.total;
}
PROGRAM(loop_flags) {
  struct sum sum = {.limit = 1000};
  return bpf_loop(3, add_round, &sum, 1);
}
PROGRAM(loop_too_long) {
  struct sum sum = {.limit = ~0u};
  return bpf_loop((1 << 23) + 1, add_round, &sum, 0);
}
static long outer_round(__u64 i, struct sum* sum) {
  struct sum inner = {.limit = 50};
  sum->total += bpf_loop(i, add_round, &inner, 0) + inner.total;
  return 0;
}
PROGRAM(loop_in_loop) {
  struct sum sum = {};
  bpf_loop(7, outer_round, &sum, 0);
  return sum.total;
}
static long add_entry(void* map, __u32* key, __u64* value, struct sum* sum) {
  sum->total += *key * 1000 + *value;
  *value += 1;
  return sum->limit != 0 && *key == sum->limit;
}
PROGRAM(each_of_array) {
  struct sum sum = {.limit = ctx->args[0] & 7};
  long calls = bpf_for_each_map_elem(&table, add_entry, &sum, 0);
  return calls * 100000 + sum.total;
}
static long drop_odd(void* map, __u32* key, __u64* value, struct sum* sum) {
  sum->total += *key * 16 + *value;
  if (*key & 1) {
    __u32 copy = *key;
    bpf_map_delete_elem(map, &copy);
  }
  return 0;
}
PROGRAM(each_of_hash) {
  struct sum sum = {};
  for (int i = 0; i < 10; i++) {
    __u32 key = i;
    __u64 value = i * 7;
    bpf_map_update_elem(&counts, &key, &value, BPF_ANY);
  }
  long calls = bpf_for_each_map_elem(&counts, drop_odd, &sum, 0);
  sum.total *= 10;
  calls += 100 * bpf_for_each_map_elem(&counts, drop_odd, &sum, 0);
  return calls * 10000 + sum.total;
}
PROGRAM(each_flags) {
  struct sum sum = {};
  return bpf_for_each_map_elem(&counts, drop_odd, &sum, 4);
}

// ---- maps

PROGRAM(queues) {
  __u64 i = ctx->args[0], value = i * 11, got = 5;
  long pushed = bpf_map_push_elem(&queue, &value, i % 5 == 4 ? BPF_EXIST : BPF_ANY);
  long popped = 0;
  if (i % 3 == 2) popped = bpf_map_pop_elem(&queue, &got);
  long peeked = bpf_map_peek_elem(&queue, &value);
  return pushed * 31 + popped * 7 + peeked + got * 1000 + value * 3;
}
PROGRAM(stacks) {
  __u64 i = ctx->args[0], value = i * 11, got = 5;
  long pushed = bpf_map_push_elem(&stack, &value, i % 5 == 4 ? BPF_EXIST : BPF_ANY);
  long popped = 0;
  if (i % 3 == 2) popped = bpf_map_pop_elem(&stack, &got);
  long peeked = bpf_map_peek_elem(&stack, &value);
  return pushed * 31 + popped * 7 + peeked + got * 1000 + value * 3;
}
PROGRAM(empties) {
  __u64 value = 1;
  long sum = 0;
  for (int i = 0; i < 5; i++) sum = sum * 31 + bpf_map_pop_elem(&queue, &value) + value;
  for (int i = 0; i < 5; i++) sum = sum * 31 + bpf_map_pop_elem(&stack, &value) + value;
  return sum;
}
PROGRAM(filters) {
  __u32 value = ctx->args[0] * 977;
  long pushed = bpf_map_push_elem(&filter, &value, BPF_ANY);
  return pushed * 2 + bpf_map_peek_elem(&filter, &value) + bpf_map_push_elem(&filter, &value, 1);
}
PROGRAM(prefixes) {
  __u32 i = ctx->args[0];
  struct prefix key = {.len = i * 5 % 34, .bits = i & 3};
  long put = bpf_map_update_elem(&routes, &key, &i, i % 4);
  struct prefix asked = {.len = 32, .bits = i & 7};
  __u32* found = bpf_map_lookup_elem(&routes, &asked);
  long gone = 0;
  if (i % 5 == 3) gone = bpf_map_delete_elem(&routes, &key);
  return put * 31 + gone * 7 + (found ? *found + 1 : 0);
}

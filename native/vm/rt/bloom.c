/* SPDX-License-Identifier: MIT */
#include "bloom.h"

#include "rt.h"

#define HASHES_DEFAULT 5u
#define BITS_MAX (1ull << 31)

typedef u64 __attribute__((may_alias, aligned(1))) u64_any;

int rt_bloom_layout(struct vm_map* map) {
  if (map->key_size != 0 || map->value_size == 0) return -RT_EINVAL;
  if (map->value_size > RT_VALUE_BYTES_MAX) return -RT_E2BIG;
  if (map->elem_stride > RT_BLOOM_HASHES_MAX) return -RT_EINVAL;
  if (map->elem_stride == 0) map->elem_stride = HASHES_DEFAULT;
  /* With half of the bits set, 1/ln 2 = 1.44 of them for each value and hash. */
  u64 wanted = (u64)map->max_entries * map->elem_stride * 7 / 5;
  u64 bits = 64;
  while (bits < wanted && bits < BITS_MAX) bits <<= 1;
  map->bucket_count = (u32)bits;
  map->data_off = sizeof(struct rt_bloom_ctl);
  map->storage_bytes = map->data_off + bits / 8;
  return 0;
}

RT_INLINE u64 mix(u64 a, u64 b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (u64)product ^ (u64)(product >> 64);
}

/* The bits of a value: first, and the odd distance from each to the next. */
struct walk {
  u64 at, step;
};
static struct walk walk_of(const struct vm_map* map, const void* value) {
  u64 h = rt_load(&((const struct rt_bloom_ctl*)map->base)->seed) ^ map->value_size;
  const u8* at = (const u8*)value;
  u32 len = map->value_size;
  for (; len >= 8; len -= 8, at += 8) {
    h = mix(h ^ *(const u64_any*)at, 0x9e3779b97f4a7c15ull);
  }
  u64 tail = 0;
  for (u32 i = 0; i < len; i++) tail |= (u64)at[i] << (8 * i);
  h = mix(h ^ tail, 0xe7037ed1a0b428dbull);
  struct walk walk = {h, mix(h, 0x8ebc6af09c88c6e3ull) | 1};
  return walk;
}

RT_INLINE u64* word_at(const struct vm_map* map, u64 bit) {
  return (u64*)(map->base + map->data_off) + (bit & (map->bucket_count - 1)) / 64;
}

long rt_bloom_add(const struct vm_map* map, const void* value, u64 flags) {
  if (flags != 0) return -RT_EINVAL;
  struct walk walk = walk_of(map, value);
  for (u32 i = 0; i < map->elem_stride; i++, walk.at += walk.step) {
    u64* word = word_at(map, walk.at);
    u64 bit = 1ull << (walk.at & 63);
    if ((rt_load(word) & bit) == 0) __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
  }
  return 0;
}

long rt_bloom_test(const struct vm_map* map, const void* value) {
  struct walk walk = walk_of(map, value);
  for (u32 i = 0; i < map->elem_stride; i++, walk.at += walk.step) {
    if ((rt_load(word_at(map, walk.at)) >> (walk.at & 63) & 1) == 0) return -RT_ENOENT;
  }
  return 0;
}

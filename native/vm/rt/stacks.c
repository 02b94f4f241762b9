/* SPDX-License-Identifier: MIT */
#include "stacks.h"

#include "rt.h"

#define READ_TRIES 4

int rt_stacks_layout(struct vm_map* map) {
  u32 depth = map->value_size / 8;
  if (map->key_size != 4 || map->value_size % 8 != 0) return -RT_EINVAL;
  if (depth == 0 || depth > RT_STACK_FRAMES_MAX) return -RT_EINVAL;
  map->bucket_count = 1;
  while (map->bucket_count < map->max_entries) map->bucket_count <<= 1;
  map->elem_stride = (u32)sizeof(struct rt_stack_bucket) + map->value_size;
  map->storage_bytes = (u64)map->bucket_count * map->elem_stride;
  return 0;
}

RT_INLINE struct rt_stack_bucket* bucket_at(const struct vm_map* map, u32 id) {
  return (struct rt_stack_bucket*)(map->base + (u64)id * map->elem_stride);
}
RT_INLINE u64* ips_of(struct rt_stack_bucket* bucket) { return (u64*)(bucket + 1); }
RT_INLINE int is_done(u64 word) { return (u32)word == RT_STACK_DONE; }

static u32 hash_of(const u64* ips, u32 count) {
  u64 h = count;
  for (u32 i = 0; i < count; i++) {
    unsigned __int128 product = (unsigned __int128)(h ^ ips[i]) * 0x9e3779b97f4a7c15ull;
    h = (u64)product ^ (u64)(product >> 64);
  }
  return (u32)(h >> 32);
}

static int is_same(struct rt_stack_bucket* bucket, const u64* ips, u32 count) {
  if ((u32)rt_load(&bucket->count) != count) return 0;
  for (u32 i = 0; i < count; i++) {
    if (rt_load(&ips_of(bucket)[i]) != ips[i]) return 0;
  }
  return 1;
}

long rt_stacks_put(const struct vm_map* map, const u64* ips, u32 count, u64 flags) {
  u64 hash = hash_of(ips, count);
  u32 id = (u32)hash & (map->bucket_count - 1);
  struct rt_stack_bucket* bucket = bucket_at(map, id);
  u64 word = rt_load_acquire(&bucket->word);
  if (word != 0) {
    if (is_done(word)) {
      int is_fast = (flags & RT_STACK_FAST_COMPARE) != 0;
      if (word >> 32 == hash && (is_fast || is_same(bucket, ips, count))) return id;
      if ((flags & RT_STACK_REUSE) == 0) return -RT_EEXIST;
    } else if (rt_owner_alive((u32)word)) {
      return word >> 32 == hash ? (long)id : -RT_EEXIST;
    }
  }
  u64 mine = hash << 32 | rt_owner();
  if (!rt_cas64(&bucket->word, word, mine)) {
    /* Somebody was faster: with the same stack, most often. */
    return rt_load(&bucket->word) >> 32 == hash ? (long)id : -RT_EEXIST;
  }
  rt_store(&bucket->count, ((rt_load(&bucket->count) >> 32) + 1) << 32 | count);
  for (u32 i = 0; i < count; i++) rt_store(&ips_of(bucket)[i], ips[i]);
  /* Fails if somebody took us for dead. */
  rt_cas64(&bucket->word, mine, hash << 32 | RT_STACK_DONE);
  return id;
}

long rt_stacks_read(const struct vm_map* map, u32 id, void* value_out) {
  if (id >= map->bucket_count) return -RT_ENOENT;
  struct rt_stack_bucket* bucket = bucket_at(map, id);
  u64* out = (u64*)value_out;
  for (u32 i = 0; i < READ_TRIES; i++) {
    u64 word = rt_load_acquire(&bucket->word);
    if (!is_done(word)) return -RT_ENOENT;
    u64 written = rt_load(&bucket->count);
    u64 count = (u32)written < map->value_size / 8 ? (u32)written : map->value_size / 8;
    rt_copy_words(out, ips_of(bucket), count * 8);
    rt_memset(out + count, 0, map->value_size - count * 8);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (rt_load(&bucket->word) == word && rt_load(&bucket->count) == written) return 0;
  }
  return -RT_ENOENT;
}

long rt_stacks_delete(const struct vm_map* map, u32 id) {
  if (id >= map->bucket_count) return -RT_E2BIG;
  u64* at = &bucket_at(map, id)->word;
  u64 word = rt_load(at);
  if (word == 0) return -RT_ENOENT;
  if (!is_done(word) && rt_owner_alive((u32)word)) return -RT_EBUSY; /* it is being written */
  return rt_cas64(at, word, 0) ? 0 : -RT_EBUSY;
}

static long next_from(const struct vm_map* map, u64 id) {
  for (; id < map->bucket_count; id++) {
    if (is_done(rt_load(&bucket_at(map, (u32)id)->word))) return (long)id;
  }
  return -RT_ENOENT;
}

long rt_stacks_next(const struct vm_map* map, const void* key, void* next_out) {
  u64 from = 0;
  if (key != 0 && *(const u32*)key < map->bucket_count) {
    /* As in the kernel: what comes after a key that is there; else everything. */
    u32 id = *(const u32*)key;
    if (is_done(rt_load(&bucket_at(map, id)->word))) from = (u64)id + 1;
  }
  long id = next_from(map, from);
  if (id < 0) return id;
  *(u32*)next_out = (u32)id;
  return 0;
}

long rt_stacks_iterate(const struct vm_map* map, u64* cursor, void* key_out, void* value_out) {
  for (;;) {
    long id = next_from(map, *cursor);
    if (id < 0) return id;
    *cursor = (u64)id + 1;
    rt_memcpy(key_out, &(u32){(u32)id}, 4);
    if (rt_stacks_read(map, (u32)id, value_out) == 0) return 0;
  }
}

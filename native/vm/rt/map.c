/* SPDX-License-Identifier: MIT */
/* Geometry of every map type, arrays, and the dispatch by type. */
#include "map.h"

#include "bloom.h"
#include "hash.h"
#include "lpm.h"
#include "queue.h"
#include "rt.h"
#include "stacks.h"
#include "tasks.h"

#define F_NO_PREALLOC (1u << 0)
#define F_NO_COMMON_LRU (1u << 1)
#define F_ACCESS (1u << 3 | 1u << 4 | 1u << 7 | 1u << 8) /* RDONLY, WRONLY, and _PROG */
#define F_ZERO_SEED (1u << 6)
#define F_MMAPABLE (1u << 10)
#define F_PRESERVE_ELEMS (1u << 11)

#define PERCPU_VALUE_BYTES_MAX 32768u /* the kernel's PCPU_MIN_UNIT_SIZE */
#define ENTRIES_MAX (1u << 30)

RT_INLINE u64 round_up(u64 value, u64 to) { return (value + to - 1) & ~(to - 1); }

int rt_map_is_percpu(const struct vm_map* map) {
  return map->type == RT_MAP_PERCPU_ARRAY || map->type == RT_MAP_PERCPU_HASH ||
         map->type == RT_MAP_LRU_PERCPU_HASH;
}
int rt_map_is_hash(const struct vm_map* map) {
  return map->type == RT_MAP_HASH || map->type == RT_MAP_PERCPU_HASH ||
         map->type == RT_MAP_LRU_HASH || map->type == RT_MAP_LRU_PERCPU_HASH ||
         map->type == RT_MAP_HASH_OF_MAPS;
}
RT_INLINE int is_queue(const struct vm_map* map) {
  return map->type == RT_MAP_QUEUE || map->type == RT_MAP_STACK;
}
RT_INLINE int is_bloom(const struct vm_map* map) { return map->type == RT_MAP_BLOOM_FILTER; }
RT_INLINE int is_lpm(const struct vm_map* map) { return map->type == RT_MAP_LPM_TRIE; }
RT_INLINE int is_tasks(const struct vm_map* map) { return map->type == RT_MAP_TASK_STORAGE; }
RT_INLINE int is_stacks(const struct vm_map* map) { return map->type == RT_MAP_STACK_TRACE; }
int rt_map_is_nested(const struct vm_map* map) {
  return map->type == RT_MAP_ARRAY_OF_MAPS || map->type == RT_MAP_HASH_OF_MAPS;
}
int rt_map_is_keyless(const struct vm_map* map) { return is_queue(map) || is_bloom(map); }
int rt_map_is_programs(const struct vm_map* map) { return map->type == RT_MAP_PROG_ARRAY; }
RT_INLINE int is_array(const struct vm_map* map) {
  return map->type == RT_MAP_ARRAY || map->type == RT_MAP_PERCPU_ARRAY ||
         map->type == RT_MAP_ARRAY_OF_MAPS || rt_map_is_programs(map);
}

static int layout_array(struct vm_map* map) {
  u32 allowed = F_ACCESS | (map->type == RT_MAP_ARRAY ? F_MMAPABLE : 0);
  if (map->key_size != 4 || map->value_size == 0 || (map->map_flags & ~allowed) != 0) {
    return -RT_EINVAL;
  }
  u32 value_max = rt_map_is_percpu(map) ? PERCPU_VALUE_BYTES_MAX : RT_VALUE_BYTES_MAX;
  if (map->value_size > value_max) return -RT_E2BIG;
  map->value_stride = (u32)round_up(map->value_size, 8);
  u64 block = (u64)map->max_entries * map->value_stride;
  if (map->type == RT_MAP_PERCPU_ARRAY) {
    block = round_up(block, 64);
    if (block > 0xffffffc0u) return -RT_E2BIG;
    map->elem_stride = (u32)block;
    block *= map->cpu_count;
  }
  map->data_off = 0; /* libbpf and its users map array maps from offset 0 */
  map->storage_bytes = block;
  return 0;
}

static int layout_hash(struct vm_map* map) {
  u32 allowed = F_ACCESS | F_NO_PREALLOC | F_ZERO_SEED;
  int lru = map->type == RT_MAP_LRU_HASH || map->type == RT_MAP_LRU_PERCPU_HASH;
  if (lru) allowed = F_ACCESS | F_NO_COMMON_LRU | F_ZERO_SEED;
  if (is_lpm(map)) {
    allowed = F_ACCESS | F_NO_PREALLOC;
    if ((map->map_flags & F_NO_PREALLOC) == 0 || rt_lpm_check(map) != 0) return -RT_EINVAL;
  }
  if (map->key_size == 0 || map->value_size == 0 || (map->map_flags & ~allowed) != 0) {
    return -RT_EINVAL;
  }
  u32 value_max = rt_map_is_percpu(map) ? PERCPU_VALUE_BYTES_MAX : RT_VALUE_BYTES_MAX;
  if (map->key_size > RT_KEY_BYTES_MAX || map->value_size > value_max) return -RT_E2BIG;
  map->value_stride = (u32)round_up(map->value_size, 8);
  const u64 key_size = is_tasks(map) ? sizeof(struct rt_task_key) : map->key_size;
  u64 elem = sizeof(struct rt_elem) + round_up(key_size, 8) +
             (u64)map->value_stride * (rt_map_is_percpu(map) ? map->cpu_count : 1);
  if (elem > 0x7fffffffu) return -RT_E2BIG;
  map->elem_stride = (u32)elem;
  map->bucket_count = 1;
  while (map->bucket_count < map->max_entries) map->bucket_count <<= 1;
  map->bucket_off = ABI_PAGE_BYTES;
  u64 buckets = (u64)map->bucket_count * sizeof(struct rt_bucket) + rt_hash_ref_bytes(map);
  map->data_off = round_up(map->bucket_off + buckets, 64);
  map->storage_bytes = map->data_off + elem * map->max_entries;
  return 0;
}

static int layout_ring(struct vm_map* map) {
  map->bucket_off = 0;
  map->data_off = 2 * ABI_PAGE_BYTES;
  if (map->type == RT_MAP_PERF_EVENT_ARRAY) {
    if (map->key_size != 4 || map->value_size != 4) return -RT_EINVAL;
    if ((map->map_flags & ~(F_ACCESS | F_PRESERVE_ELEMS)) != 0) return -RT_EINVAL;
    map->value_stride = RT_PERF_RING_BYTES;
    map->elem_stride = 2 * ABI_PAGE_BYTES + RT_PERF_RING_BYTES;
    map->storage_bytes = (u64)map->cpu_count * map->elem_stride;
    return 0;
  }
  u32 size = map->max_entries;
  if (map->key_size != 0 || map->value_size != 0 || map->map_flags != 0) return -RT_EINVAL;
  if ((size & (size - 1)) != 0 || size % ABI_PAGE_BYTES != 0) return -RT_EINVAL;
  map->value_stride = size;
  map->storage_bytes = map->data_off + size;
  return 0;
}

static int layout_keyless(struct vm_map* map) {
  u32 allowed = F_ACCESS | (is_bloom(map) ? F_ZERO_SEED : 0);
  if ((map->map_flags & ~allowed) != 0) return -RT_EINVAL;
  return is_bloom(map) ? rt_bloom_layout(map) : rt_queue_layout(map);
}

int rt_map_layout(struct vm_map* map) {
  if (is_tasks(map) && rt_tasks_layout(map) != 0) return -RT_EINVAL;
  if (map->max_entries == 0 || map->cpu_count == 0 || map->cpu_count > 4096) return -RT_EINVAL;
  if (map->max_entries > ENTRIES_MAX) return -RT_E2BIG;
  map->bucket_count = 0;
  map->bucket_off = map->data_off = 0;
  map->value_stride = 0;
  if (!is_bloom(map)) map->elem_stride = 0;
  int ret = -RT_EINVAL;
  if ((rt_map_is_nested(map) || rt_map_is_programs(map)) && map->value_size != 4) return ret;
  if (is_array(map)) ret = layout_array(map);
  if (rt_map_is_hash(map) || is_lpm(map) || is_tasks(map)) ret = layout_hash(map);
  if (rt_map_is_keyless(map)) ret = layout_keyless(map);
  if (map->type == RT_MAP_CGROUP_ARRAY && map->key_size == 4 && map->value_size == 4) {
    map->storage_bytes = ABI_PAGE_BYTES;
    ret = (map->map_flags & ~F_ACCESS) != 0 ? -RT_EINVAL : 0;
  }
  if (is_stacks(map)) ret = (map->map_flags & ~F_ACCESS) != 0 ? -RT_EINVAL : rt_stacks_layout(map);
  if (map->type == RT_MAP_RINGBUF || map->type == RT_MAP_PERF_EVENT_ARRAY) ret = layout_ring(map);
  if (ret != 0) return ret;
  map->storage_bytes = round_up(map->storage_bytes, ABI_PAGE_BYTES);
  return map->storage_bytes > RT_MAP_BYTES_MAX ? -RT_E2BIG : 0;
}

void rt_map_init(const struct vm_map* map) {
  /* Zeroed storage is an empty map of any type; only the seed must be hard to guess. */
  if (is_bloom(map)) ((struct rt_bloom_ctl*)map->base)->hashes = map->elem_stride;
  int has_seed = rt_map_is_hash(map) || is_lpm(map) || is_bloom(map) || is_tasks(map);
  if (!has_seed || (map->map_flags & F_ZERO_SEED) != 0) return;
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  u64 seed = ((u64)high << 32 | low) * 0xd6e8feb86659fd93ull;
  /* It is the first word of each of them. */
  *(u64*)map->base = seed ^ seed >> 29 ^ (u64)map->base;
}

RT_INLINE u8* array_value(const struct vm_map* map, u32 index, u32 cpu) {
  u8* block = map->base + map->data_off;
  if (map->type == RT_MAP_PERCPU_ARRAY) block += (u64)cpu * map->elem_stride;
  return block + (u64)index * map->value_stride;
}

/* The view of the inner map whose number is at `value`, or null: anybody may have written it. */
static void* inner_map(const struct vm_map* map, const u8* value) {
  u32 number = value == 0 ? 0 : rt_load((const u32*)value);
  if (number - 1 >= map->cpu_count) return 0;
  return (void*)(map + number);
}

void* rt_map_lookup(const struct vm_map* map, const void* key) {
  if (map->type == RT_MAP_HASH) return rt_hash_find(map, key, 1);
  if (map->type == RT_MAP_HASH_OF_MAPS) return inner_map(map, rt_hash_find(map, key, 0));
  if (is_array(map)) {
    u32 index = *(const u32*)key;
    if (index >= map->max_entries) return 0;
    if (map->type == RT_MAP_ARRAY_OF_MAPS) return inner_map(map, array_value(map, index, 0));
    return array_value(map, index, map->type == RT_MAP_ARRAY ? 0 : rt_cpu(map->cpu_count));
  }
  if (is_lpm(map)) return rt_lpm_find(map, key);
  if (!rt_map_is_hash(map)) return 0;
  u8* value = rt_hash_find(map, key, 1);
  if (value == 0 || map->type == RT_MAP_LRU_HASH) return value;
  return value + (u64)rt_cpu(map->cpu_count) * map->value_stride;
}

void* rt_map_lookup_percpu(const struct vm_map* map, const void* key, u32 cpu) {
  if (cpu >= map->cpu_count || !rt_map_is_percpu(map)) return 0;
  if (is_array(map)) {
    u32 index = *(const u32*)key;
    return index < map->max_entries ? array_value(map, index, cpu) : 0;
  }
  u8* value = rt_hash_find(map, key, 1);
  return value == 0 ? 0 : value + (u64)cpu * map->value_stride;
}

static long array_update(const struct vm_map* map, const void* key, const void* value, u64 flags,
                         enum rt_value_source source) {
  u32 index = *(const u32*)key;
  if (flags > 2) return -RT_EINVAL;
  if (index >= map->max_entries) return -RT_E2BIG;
  if (flags == 1) return -RT_EEXIST;
  if (map->type != RT_MAP_PERCPU_ARRAY || source == RT_VALUE_THIS_CPU) {
    u32 cpu = map->type != RT_MAP_PERCPU_ARRAY ? 0 : rt_cpu(map->cpu_count);
    rt_copy_words(array_value(map, index, cpu), value, map->value_size);
    return 0;
  }
  for (u32 cpu = 0; cpu < map->cpu_count; cpu++) {
    rt_copy_words(array_value(map, index, cpu), (const u8*)value + (u64)cpu * map->value_stride,
                  map->value_size);
  }
  return 0;
}

static long update(const struct vm_map* map, const void* key, const void* value, u64 flags,
                   enum rt_value_source source) {
  if (rt_map_is_hash(map)) return rt_hash_update(map, key, value, flags, source);
  if (is_array(map)) return array_update(map, key, value, flags, source);
  if (is_lpm(map)) return rt_lpm_update(map, key, value, flags);
  if (is_stacks(map)) return -RT_EINVAL;
  return -RT_EOPNOTSUPP;
}

long rt_map_update(const struct vm_map* map, const void* key, const void* value, u64 flags) {
  return update(map, key, value, flags, RT_VALUE_THIS_CPU);
}

long rt_map_write(const struct vm_map* map, const void* key, const void* value, u64 flags) {
  return update(map, key, value, flags, RT_VALUE_ALL_CPUS);
}

long rt_map_delete(const struct vm_map* map, const void* key) {
  if (rt_map_is_hash(map)) return rt_hash_delete(map, key);
  if (is_lpm(map)) return rt_lpm_delete(map, key);
  if (is_stacks(map)) return rt_stacks_delete(map, *(const u32*)key);
  if (is_tasks(map)) return rt_tasks_delete_tid(map, *(const u32*)key);
  return is_array(map) ? -RT_EINVAL : -RT_EOPNOTSUPP;
}

long rt_map_for_each(const struct vm_map* map, rt_each_fn* fn, u64 arg) {
  if (rt_map_is_nested(map)) return -RT_EINVAL;
  long calls = 0;
  if (is_array(map)) {
    for (u32 index = 0; index < map->max_entries; index++) {
      u32 key = index; /* the callee may have it changed, by a helper that writes to memory */
      u32 cpu = map->type == RT_MAP_ARRAY ? 0 : rt_cpu(map->cpu_count);
      calls++;
      if (fn((u64)map, (u64)&key, (u64)array_value(map, index, cpu), arg, 0) != 0) break;
    }
    return calls;
  }
  if (!rt_map_is_hash(map)) return -RT_EINVAL;
  u64 cursor = 0;
  u8* first;
  while (rt_hash_iterate(map, &cursor, 0, &first) == 0) {
    const u8* key = first - round_up(map->key_size, 8);
    u64 cpu = rt_map_is_percpu(map) ? rt_cpu(map->cpu_count) : 0;
    calls++;
    if (fn((u64)map, (u64)key, (u64)(first + cpu * map->value_stride), arg, 0) != 0) break;
  }
  return calls;
}

long rt_map_push(const struct vm_map* map, const void* value, u64 flags) {
  if (is_bloom(map)) return rt_bloom_add(map, value, flags);
  return is_queue(map) ? rt_queue_push(map, value, flags) : -RT_EOPNOTSUPP;
}

long rt_map_pop(const struct vm_map* map, void* value_out) {
  return is_queue(map) ? rt_queue_take(map, value_out, 1) : -RT_EOPNOTSUPP;
}

long rt_map_peek(const struct vm_map* map, void* value) {
  if (is_bloom(map)) return rt_bloom_test(map, value);
  return is_queue(map) ? rt_queue_take(map, value, 0) : -RT_EOPNOTSUPP;
}

u64 rt_map_value_bytes(const struct vm_map* map) {
  if (!rt_map_is_percpu(map)) return map->value_size;
  return round_up(map->value_size, 8) * map->cpu_count;
}

/* Copies the value at `first` (of the first CPU) with `stride` bytes from CPU to CPU. */
static void copy_out(const struct vm_map* map, const u8* first, u64 stride, void* out) {
  if (!rt_map_is_percpu(map)) {
    rt_memcpy(out, first, map->value_size);
    return;
  }
  for (u32 cpu = 0; cpu < map->cpu_count; cpu++) {
    rt_memcpy((u8*)out + (u64)cpu * map->value_stride, first + cpu * stride, map->value_stride);
  }
}

RT_INLINE u64 cpu_stride(const struct vm_map* map) {
  return is_array(map) ? map->elem_stride : map->value_stride;
}

long rt_map_read(const struct vm_map* map, const void* key, void* value_out) {
  if (is_stacks(map)) return rt_stacks_read(map, *(const u32*)key, value_out);
  const u8* first = 0;
  if (rt_map_is_hash(map)) {
    first = rt_hash_find(map, key, 0);
  } else if (is_lpm(map)) {
    first = rt_lpm_find(map, key);
  } else if (is_array(map)) {
    u32 index = *(const u32*)key;
    if (index < map->max_entries) first = array_value(map, index, 0);
  } else {
    return -RT_EOPNOTSUPP;
  }
  if (first == 0) return -RT_ENOENT;
  copy_out(map, first, cpu_stride(map), value_out);
  return 0;
}

long rt_map_next_key(const struct vm_map* map, const void* key, void* next_out) {
  if (is_stacks(map)) return rt_stacks_next(map, key, next_out);
  if (rt_map_is_hash(map)) return rt_hash_next_key(map, key, next_out);
  if (is_lpm(map)) return rt_lpm_next_key(map, key, next_out);
  if (!is_array(map)) return -RT_EOPNOTSUPP;
  u32 index = key != 0 ? *(const u32*)key : 0xffffffffu;
  u32 next = index >= map->max_entries ? 0 : index + 1;
  if (next >= map->max_entries) return -RT_ENOENT;
  *(u32*)next_out = next;
  return 0;
}

long rt_map_iterate(const struct vm_map* map, u64* cursor, void* key_out, void* value_out) {
  if (is_queue(map)) return rt_queue_iterate(map, cursor, value_out);
  if (is_stacks(map)) return rt_stacks_iterate(map, cursor, key_out, value_out);
  if (rt_map_is_hash(map) || is_lpm(map) || is_tasks(map)) {
    u8* first = 0;
    long ret = is_tasks(map) ? rt_tasks_iterate(map, cursor, key_out, &first)
                             : rt_hash_iterate(map, cursor, key_out, &first);
    if (ret == 0) copy_out(map, first, cpu_stride(map), value_out);
    return ret;
  }
  if (!is_array(map)) return -RT_EOPNOTSUPP;
  if (*cursor >= map->max_entries) return -RT_ENOENT;
  u32 index = (u32)(*cursor)++;
  rt_memcpy(key_out, &index, 4);
  copy_out(map, array_value(map, index, 0), cpu_stride(map), value_out);
  return 0;
}

u32 rt_map_count(const struct vm_map* map) {
  if (rt_map_is_hash(map) || is_lpm(map)) return rt_hash_count(map);
  if (is_queue(map)) return rt_queue_count(map);
  if (is_tasks(map)) return rt_tasks_count(map);
  return is_array(map) ? map->max_entries : 0;
}

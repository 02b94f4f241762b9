/* SPDX-License-Identifier: MIT */
#include "queue.h"

#include "rt.h"

#define LOOK_TRIES 8
#define CURSOR_SET (1ull << 63)

RT_INLINE struct rt_queue_ctl* ctl_of(const struct vm_map* map) {
  return (struct rt_queue_ctl*)map->base;
}
RT_INLINE u8* slot_at(const struct vm_map* map, u32 position) {
  u32 slot = position & (map->bucket_count - 1);
  return map->base + map->data_off + (u64)slot * map->value_stride;
}

struct range {
  u32 head, tail;
};
/* What makes no sense (somebody scribbled over it) is an empty queue. */
RT_INLINE struct range load_range(const struct vm_map* map) {
  u64 word = rt_load_acquire(&ctl_of(map)->range);
  struct range range = {(u32)(word >> 32), (u32)word};
  if (range.head - range.tail > map->max_entries) range.tail = range.head;
  return range;
}
RT_INLINE void store_range(const struct vm_map* map, struct range range) {
  rt_store_release(&ctl_of(map)->range, (u64)range.head << 32 | range.tail);
}

int rt_queue_layout(struct vm_map* map) {
  if (map->key_size != 0 || map->value_size == 0) return -RT_EINVAL;
  if (map->value_size > RT_VALUE_BYTES_MAX) return -RT_E2BIG;
  map->value_stride = (map->value_size + 7) & ~7u;
  map->bucket_count = 2;
  while (map->bucket_count <= map->max_entries) map->bucket_count <<= 1;
  map->data_off = sizeof(struct rt_queue_ctl);
  map->storage_bytes = map->data_off + (u64)map->bucket_count * map->value_stride;
  return 0;
}

static int begin(const struct vm_map* map) {
  struct rt_queue_ctl* ctl = ctl_of(map);
  if (rt_lock(&ctl->owner, rt_owner()) != 0) return 0;
  u64 changes = rt_load(&ctl->changes);
  /* It is odd if the last writer died; those who look must notice us all the same. */
  rt_store(&ctl->changes, (changes & 1) != 0 ? changes + 2 : changes + 1);
  __atomic_thread_fence(__ATOMIC_RELEASE);
  return 1;
}

static void end(const struct vm_map* map) {
  struct rt_queue_ctl* ctl = ctl_of(map);
  rt_store_release(&ctl->changes, rt_load(&ctl->changes) + 1);
  rt_unlock(&ctl->owner);
}

long rt_queue_push(const struct vm_map* map, const void* value, u64 flags) {
  if (flags != 0 && flags != 2) return -RT_EINVAL; /* BPF_ANY, BPF_EXIST */
  if (!begin(map)) return -RT_EBUSY;
  struct range range = load_range(map);
  long ret = 0;
  if (range.head - range.tail == map->max_entries && flags == 0) {
    ret = -RT_E2BIG;
  } else {
    if (range.head - range.tail == map->max_entries) range.tail++; /* the oldest gives way */
    rt_copy_words(slot_at(map, range.head), value, map->value_size);
    range.head++;
    store_range(map, range);
  }
  end(map);
  return ret;
}

RT_INLINE u32 next_out(const struct vm_map* map, struct range range) {
  return map->type == RT_MAP_QUEUE ? range.tail : range.head - 1;
}

/* Copies the next value without the lock: 1, 0 if there is none, -1 if writers were in the way. */
static int look(const struct vm_map* map, void* value_out) {
  const struct rt_queue_ctl* ctl = ctl_of(map);
  for (u32 i = 0; i < LOOK_TRIES; i++) {
    u64 changes = rt_load_acquire(&ctl->changes);
    if ((changes & 1) != 0) continue;
    struct range range = load_range(map);
    int is_empty = range.head == range.tail;
    if (!is_empty) rt_copy_words(value_out, slot_at(map, next_out(map, range)), map->value_size);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (rt_load(&ctl->changes) == changes) return !is_empty;
  }
  return -1;
}

long rt_queue_take(const struct vm_map* map, void* value_out, int remove) {
  int found = remove ? -1 : look(map, value_out);
  if (found < 0) {
    if (!begin(map)) {
      rt_memset(value_out, 0, map->value_size);
      return -RT_EBUSY;
    }
    struct range range = load_range(map);
    found = range.head != range.tail;
    if (found) {
      rt_copy_words(value_out, slot_at(map, next_out(map, range)), map->value_size);
      if (remove && map->type == RT_MAP_QUEUE) range.tail++;
      if (remove && map->type != RT_MAP_QUEUE) range.head--;
      store_range(map, range);
    }
    end(map);
  }
  if (found) return 0;
  rt_memset(value_out, 0, map->value_size);
  return -RT_ENOENT;
}

long rt_queue_iterate(const struct vm_map* map, u64* cursor, void* value_out) {
  struct range range = load_range(map);
  u32 at = (u32)*cursor;
  /* Its place may have been taken out meanwhile. */
  int is_inside = (*cursor & CURSOR_SET) != 0 && at - range.tail <= range.head - range.tail;
  if (!is_inside) {
    if ((*cursor & CURSOR_SET) != 0 && map->type != RT_MAP_QUEUE) return -RT_ENOENT;
    at = range.tail;
  }
  if (at == range.head) return -RT_ENOENT;
  rt_copy_words(value_out, slot_at(map, at), map->value_size);
  *cursor = CURSOR_SET | (u32)(at + 1);
  return 0;
}

u32 rt_queue_count(const struct vm_map* map) {
  struct range range = load_range(map);
  return range.head - range.tail;
}

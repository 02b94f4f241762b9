/* SPDX-License-Identifier: MIT */
#include "tasks.h"

#include "hash.h"
#include "rt.h"

#define F_NO_PREALLOC 1u

/* The same storage as a hash. */
static struct vm_map as_hash(const struct vm_map* map) {
  struct vm_map hash = *map;
  hash.type = RT_MAP_HASH;
  hash.key_size = sizeof(struct rt_task_key);
  return hash;
}

static struct rt_task_key key_of_this(void) {
  struct rt_task_key key = {rt_tid(), rt_owner(), 0};
  /* Where libc is known it keeps the thread pointer at itself. */
  if (rt_env.tid_fs_offset > 0) __asm__ volatile("mov %%fs:0, %0" : "=r"(key.thread_pointer));
  return key;
}

u64 rt_task_current(void) { return 1ull << 63 | rt_tid(); }

/* Of a thread without a cheap id the owner is its process: that it lives says nothing. */
static int has_ended(const struct rt_task_key* key) {
  u32 owner = key->owner;
  if ((owner & RT_OWNER_PROCESS) != 0) {
    owner = (owner & ~(RT_OWNER_PROCESS | RT_OWNER_ID_MASK)) | (key->tid & RT_OWNER_ID_MASK);
  }
  return !rt_owner_alive(owner);
}

static int next_key(const struct vm_map* hash, u64* cursor, struct rt_task_key* key, u8** value) {
  return rt_hash_iterate(hash, cursor, key, value) == 0;
}

/* Looks at some entries, from `*cursor` on. */
static void sweep(const struct vm_map* hash, u64* cursor, u32 steps) {
  struct rt_task_key key;
  u8* value;
  for (u32 i = 0; i < steps; i++) {
    if (!next_key(hash, cursor, &key, &value)) {
      *cursor = 0;
      return;
    }
    if (has_ended(&key)) rt_hash_delete(hash, &key);
  }
}

void* rt_task_get(const struct vm_map* map, const void* initial, u64 flags) {
  const struct vm_map hash = as_hash(map);
  const struct rt_task_key key = key_of_this();
  if ((flags & ~RT_TASK_CREATE) != 0) return 0;
  u8* value = rt_hash_find(&hash, &key, 0);
  if (value != 0 || flags == 0) return value;
  /* Where each goes on, for all processes: no more than a hint. */
  static u64 swept;
  u64 cursor = rt_load(&swept);
  sweep(&hash, &cursor, RT_TASK_SWEEP_STEPS);
  rt_store(&swept, cursor);
  long done = rt_hash_update(&hash, &key, initial, 1, RT_VALUE_THIS_CPU);
  if (done == -RT_E2BIG) {
    u64 all = 0;
    sweep(&hash, &all, RT_TASKS_MAX);
    done = rt_hash_update(&hash, &key, initial, 1, RT_VALUE_THIS_CPU);
  }
  return done == 0 || done == -RT_EEXIST ? rt_hash_find(&hash, &key, 0) : 0;
}

long rt_task_delete(const struct vm_map* map) {
  const struct vm_map hash = as_hash(map);
  const struct rt_task_key key = key_of_this();
  return rt_hash_delete(&hash, &key);
}

int rt_tasks_layout(struct vm_map* map) {
  if (map->key_size != sizeof(s32) || (map->map_flags & F_NO_PREALLOC) == 0) return -RT_EINVAL;
  map->max_entries = RT_TASKS_MAX;
  return 0;
}

void rt_tasks_sweep(const struct vm_map* map) {
  const struct vm_map hash = as_hash(map);
  u64 cursor = 0;
  sweep(&hash, &cursor, RT_TASKS_MAX);
}

long rt_tasks_iterate(const struct vm_map* map, u64* cursor, void* key_out, u8** value_out) {
  const struct vm_map hash = as_hash(map);
  struct rt_task_key key;
  const long ret = rt_hash_iterate(&hash, cursor, &key, value_out);
  if (ret == 0) rt_memcpy(key_out, &key.tid, sizeof key.tid);
  return ret;
}

long rt_tasks_delete_tid(const struct vm_map* map, u32 tid) {
  const struct vm_map hash = as_hash(map);
  struct rt_task_key key;
  u8* value;
  u64 cursor = 0;
  long ret = -RT_ENOENT;
  while (next_key(&hash, &cursor, &key, &value)) {
    if (key.tid == tid && rt_hash_delete(&hash, &key) == 0) ret = 0;
  }
  return ret;
}

u32 rt_tasks_count(const struct vm_map* map) {
  const struct vm_map hash = as_hash(map);
  return rt_hash_count(&hash);
}

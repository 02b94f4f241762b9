/* SPDX-License-Identifier: MIT */
/* Hash maps: chained buckets over preallocated elements.
 *
 * Readers take no lock. A chain is consistent after every single store, so a writer may die
 * anywhere; the element it was moving carries its owner and is reclaimed when the map runs full.
 * Chains end in a marker with the bucket's number: a reader that was carried into another chain by
 * a reused element notices and starts again. Every index from shared memory is checked.
 *
 * Locked instructions are what a write costs. While less than half of the elements were ever in use
 * an element that leaves its bucket stays there as a spare for the next key, which then takes it
 * under the bucket's lock alone. From half on no spares are made, and every element that is handed
 * out sweeps some of the old ones into the free list: none is missing when the others run out. */
#include "hash.h"

#define FIND_RETRIES 8
#define FREE_LIST_TRIES 64
#define FREE_BUSY_TRIES 8
#define RECLAIM_WINDOW 16
#define LRU_WINDOW 256
#define SWEEP_WINDOW 4 /* at least two: half of the elements sweep the other half */

typedef u64 __attribute__((may_alias, aligned(1))) u64_any;
typedef u32 __attribute__((may_alias, aligned(1))) u32_any;

RT_INLINE struct rt_hash_ctl* ctl_of(const struct vm_map* map) {
  return (struct rt_hash_ctl*)map->base;
}
RT_INLINE struct rt_bucket* bucket_at(const struct vm_map* map, u32 index) {
  return (struct rt_bucket*)(map->base + map->bucket_off) + (index & (map->bucket_count - 1));
}
RT_INLINE struct rt_elem* elem_at(const struct vm_map* map, u32 index) {
  return (struct rt_elem*)(map->base + map->data_off + (u64)index * map->elem_stride);
}
RT_INLINE u8* key_of(struct rt_elem* elem) { return (u8*)(elem + 1); }
RT_INLINE u8* value_of(const struct vm_map* map, struct rt_elem* elem) {
  return key_of(elem) + ((map->key_size + 7) & ~7u);
}
RT_INLINE int is_lru(const struct vm_map* map) {
  return map->type == RT_MAP_LRU_HASH || map->type == RT_MAP_LRU_PERCPU_HASH;
}
RT_INLINE u8* ref_of(const struct vm_map* map, u32 index) {
  return map->base + map->bucket_off + (u64)map->bucket_count * sizeof(struct rt_bucket) + index;
}

u64 rt_hash_ref_bytes(const struct vm_map* map) { return is_lru(map) ? map->max_entries : 0; }

RT_INLINE u64 mix(u64 x) {
  unsigned __int128 product = (unsigned __int128)x * RT_HASH_MULTIPLIER;
  return (u64)product ^ (u64)(product >> 64);
}

static u32 hash_long_key(const struct vm_map* map, const u8* key, u64 seed) {
  u64 h = seed ^ map->key_size;
  u32 len = map->key_size;
  for (; len >= 8; len -= 8, key += 8) h = mix(h ^ *(const u64_any*)key);
  u64 tail = 0;
  for (u32 i = 0; i < len; i++) tail |= (u64)key[i] << (8 * i);
  return (u32)mix(h ^ tail);
}

RT_INLINE u32 hash_of(const struct vm_map* map, const void* key) {
  u64 seed = rt_load(&ctl_of(map)->seed);
  if (map->key_size == 4) return (u32)mix(seed ^ *(const u32_any*)key);
  if (map->key_size == 8) return (u32)mix(seed ^ *(const u64_any*)key);
  return hash_long_key(map, key, seed);
}

RT_INLINE int key_equal(const struct vm_map* map, const void* a, const void* b) {
  if (map->key_size == 4) return *(const u32_any*)a == *(const u32_any*)b;
  if (map->key_size == 8) return *(const u64_any*)a == *(const u64_any*)b;
  return rt_memeq(a, b, map->key_size);
}

/* The element with this key, or null. */
RT_INLINE struct rt_elem* find(const struct vm_map* map, const void* key, u32 hash) {
  u32 bucket = hash & (map->bucket_count - 1);
  for (u32 retry = 0; retry < FIND_RETRIES; retry++) {
    u32 link = rt_load_acquire(&bucket_at(map, bucket)->head);
    u32 steps = 0;
    while (link - 1 < map->max_entries) {
      struct rt_elem* elem = elem_at(map, link - 1);
      if (rt_load(&elem->hash) == hash && key_equal(map, key_of(elem), key)) return elem;
      link = rt_load_acquire(&elem->next);
      if (++steps > map->max_entries) return 0;
    }
    if (RT_LIKELY(link == 0 || link == (RT_NULLS | bucket))) return 0;
  }
  return 0;
}

RT_INLINE u32 index_of(const struct vm_map* map, struct rt_elem* elem) {
  return (u32)(((u8*)elem - map->base - map->data_off) / map->elem_stride);
}

static void touch_lru(const struct vm_map* map, struct rt_elem* elem) {
  u8* ref = ref_of(map, index_of(map, elem));
  if (rt_load(ref) == 0) rt_store(ref, 1);
}

u8* rt_hash_find(const struct vm_map* map, const void* key, int touch) {
  struct rt_elem* elem = find(map, key, hash_of(map, key));
  if (elem == 0) return 0;
  if (touch && is_lru(map)) touch_lru(map, elem);
  return value_of(map, elem);
}

/* The link that leads to elem in its chain, or null. The bucket is locked. */
static u32* link_to(const struct vm_map* map, struct rt_bucket* bucket, u32 index) {
  u32* link = &bucket->head;
  for (u32 steps = 0; steps <= map->max_entries; steps++) {
    u32 at = rt_load(link) - 1;
    if (at >= map->max_entries) return 0;
    if (at == index) return link;
    link = &elem_at(map, at)->next;
  }
  return 0;
}

/* The link that leads to the element with this key, or null. The bucket is locked. */
RT_INLINE u32* link_of(const struct vm_map* map, struct rt_bucket* bucket, const void* key,
                       u32 hash, u32* index) {
  u32* link = &bucket->head;
  for (u32 steps = 0; steps <= map->max_entries; steps++) {
    u32 at = rt_load(link) - 1;
    if (at >= map->max_entries) return 0;
    struct rt_elem* elem = elem_at(map, at);
    if (rt_load(&elem->hash) == hash && key_equal(map, key_of(elem), key)) {
      *index = at;
      return link;
    }
    link = &elem->next;
  }
  return 0;
}

/* Takes elem, to which `link` leads, out of its locked bucket; it then belongs to `self`. */
RT_INLINE void unlink_elem(struct rt_elem* elem, u32* link, u32 self) {
  rt_store_release(&elem->state, self | RT_ELEM_DELETING);
  rt_store_release(link, rt_load(&elem->next));
  rt_store_release(&elem->state, self);
}

static void push_free(const struct vm_map* map, u32 index, u32 self) {
  struct rt_hash_ctl* ctl = ctl_of(map);
  struct rt_elem* elem = elem_at(map, index);
  u64 head;
  do {
    head = rt_load(&ctl->free_head);
    rt_store(&elem->free_next, (u32)head);
  } while (!rt_cas64(&ctl->free_head, head, ((head >> 32) + 1) << 32 | (index + 1)));
  /* Only now: whoever finds it FREE and not in the list may conclude that it was lost. */
  rt_cas32(&elem->state, self, RT_ELEM_FREE);
}

/* Whether the state is a living owner. */
RT_INLINE int is_held(u32 state) {
  return state != RT_ELEM_FREE && state != RT_ELEM_SPARE && state != RT_ELEM_LINKED &&
         rt_owner_alive(state & ~RT_ELEM_DELETING);
}

/* The element is claimed before it leaves the list: one that is FREE and in no list is lost, and
 * reclaim() would give it to somebody else as well. One that is in somebody's hands (being pushed,
 * or looked at) is waited for, and left to reclaim() when that takes long. */
static int pop_free(const struct vm_map* map, u32 self, u32* index) {
  struct rt_hash_ctl* ctl = ctl_of(map);
  u32 busy = 0;
  for (u32 i = 0; i < FREE_LIST_TRIES; i++) {
    u64 head = rt_load_acquire(&ctl->free_head);
    u32 at = (u32)head - 1;
    if (at >= map->max_entries) return 0;
    struct rt_elem* elem = elem_at(map, at);
    u64 rest = ((head >> 32) + 1) << 32 | rt_load(&elem->free_next);
    if (rt_cas32(&elem->state, RT_ELEM_FREE, self)) {
      if (rt_cas64(&ctl->free_head, head, rest)) {
        *index = at;
        return 1;
      }
      rt_cas32(&elem->state, self, RT_ELEM_FREE);
    } else if (++busy % FREE_BUSY_TRIES == 0) {
      u32 state = rt_load(&elem->state);
      /* Nobody looks for what an LRU map has lost: it evicts meanwhile. */
      if (is_lru(map) && is_held(state)) return 0;
      if (state != RT_ELEM_FREE) rt_cas64(&ctl->free_head, head, rest);
    }
  }
  return 0;
}

RT_INLINE int is_roomy(const struct vm_map* map) {
  return rt_load(&ctl_of(map)->fresh) < map->max_entries / 2;
}

/* Leaves an element of ours in its locked bucket; 0 if it must go to the free list. The element
 * says that it is a spare before the bucket does, so whatever a bucket has for a spare is one. */
RT_INLINE int make_spare(const struct vm_map* map, struct rt_bucket* bucket, u32 index, u32 self) {
  if (rt_load(&bucket->spare) != 0) return 0;
  struct rt_elem* elem = elem_at(map, index);
  rt_store(&elem->state, RT_ELEM_SPARE);
  rt_store_release(&bucket->spare, index + 1);
  /* Only now: whoever sweeps has begun before, or finds it. */
  if (RT_LIKELY(is_roomy(map))) return 1;
  rt_store(&bucket->spare, 0);
  rt_store_release(&elem->state, self);
  return 0;
}

/* Takes the spare element of a locked bucket; 0 if there is none. */
RT_INLINE int take_spare(const struct vm_map* map, struct rt_bucket* bucket, u32 self, u32* index) {
  u32 at = rt_load(&bucket->spare) - 1;
  if (at >= map->max_entries) return 0;
  rt_store(&bucket->spare, 0);
  *index = at;
  return rt_claim32(&elem_at(map, at)->state, RT_ELEM_SPARE, self);
}

/* The bucket that `elem` was in last, locked; null if somebody else has it. */
static struct rt_bucket* lock_bucket_of(const struct vm_map* map, const struct rt_elem* elem,
                                        const struct rt_bucket* own, u32 self) {
  struct rt_bucket* bucket = bucket_at(map, rt_load(&elem->hash));
  return bucket == own || rt_cas32(&bucket->owner, 0, self) ? bucket : 0;
}

RT_INLINE void unlock_bucket(struct rt_bucket* bucket, const struct rt_bucket* own) {
  if (bucket != own) rt_unlock(&bucket->owner);
}

/* Some steps from the first element on; the caller holds the lock of `own`. */
static void sweep_spares(const struct vm_map* map, struct rt_bucket* own, u32 self, u32 steps) {
  struct rt_hash_ctl* ctl = ctl_of(map);
  for (u32 i = 0; i < steps; i++) {
    u32 at = rt_load(&ctl->swept);
    if (at >= map->max_entries / 2) return;
    struct rt_elem* elem = elem_at(map, at);
    if (rt_load_acquire(&elem->state) == RT_ELEM_SPARE) {
      struct rt_bucket* bucket = lock_bucket_of(map, elem, own, self);
      if (bucket == 0) return; /* the next one tries again */
      u32 index = 0;
      int taken = rt_load(&bucket->spare) == at + 1 && take_spare(map, bucket, self, &index);
      unlock_bucket(bucket, own);
      if (taken) push_free(map, at, self);
    }
    rt_cas32(&ctl->swept, at, at + 1);
  }
}

/* Finds an element that a dead writer left behind. The caller holds the lock of `own`. */
static int reclaim(const struct vm_map* map, struct rt_bucket* own, u32 self, u32* index) {
  struct rt_hash_ctl* ctl = ctl_of(map);
  u32 start = rt_add(&ctl->reclaim, RECLAIM_WINDOW);
  for (u32 i = 0; i < RECLAIM_WINDOW && i < map->max_entries; i++) {
    u32 at = (start + i) % map->max_entries;
    struct rt_elem* elem = elem_at(map, at);
    u32 state = rt_load_acquire(&elem->state);
    if (state == RT_ELEM_LINKED) continue;
    int is_owned = state != RT_ELEM_FREE && state != RT_ELEM_SPARE;
    if (is_owned && rt_owner_alive(state & ~RT_ELEM_DELETING)) continue;
    u64 head = rt_load_acquire(&ctl->free_head);
    if ((u32)head != 0) return 0; /* there are free ones after all; the caller tries again */
    struct rt_bucket* bucket = lock_bucket_of(map, elem, own, self);
    if (bucket == 0) continue;
    if (rt_load(&bucket->spare) == at + 1) rt_store(&bucket->spare, 0);
    u32* link = is_owned ? link_to(map, bucket, at) : 0;
    int taken = 0;
    if (link != 0 && !(state & RT_ELEM_DELETING)) {
      rt_cas32(&elem->state, state, RT_ELEM_LINKED); /* died right after inserting it */
    } else if (rt_cas32(&elem->state, state, self)) {
      if (link != 0) rt_store_release(link, rt_load(&elem->next));
      taken = rt_load(&ctl->free_head) == head;
      if (!taken) rt_cas32(&elem->state, self, RT_ELEM_FREE);
    }
    unlock_bucket(bucket, own);
    if (taken) {
      *index = at;
      return 1;
    }
  }
  return 0;
}

/* LRU by second chance: the first element that was not looked up since the hand passed it. */
static int evict(const struct vm_map* map, struct rt_bucket* own, u32 self, u32* index) {
  struct rt_hash_ctl* ctl = ctl_of(map);
  for (u32 i = 0; i < LRU_WINDOW; i++) {
    u32 at = rt_add(&ctl->hand, 1) % map->max_entries;
    struct rt_elem* elem = elem_at(map, at);
    if (rt_load(&elem->state) != RT_ELEM_LINKED) continue;
    u8* ref = ref_of(map, at);
    if (rt_load(ref) != 0 && i < LRU_WINDOW / 2) {
      rt_store(ref, 0);
      continue;
    }
    struct rt_bucket* bucket = lock_bucket_of(map, elem, own, self);
    if (bucket == 0) continue;
    u32* link = link_to(map, bucket, at);
    if (link != 0) unlink_elem(elem, link, self);
    unlock_bucket(bucket, own);
    if (link != 0) {
      *index = at;
      return 1;
    }
  }
  return 0;
}

static int alloc_elem(const struct vm_map* map, struct rt_bucket* own, u32 self, u32* index) {
  struct rt_hash_ctl* ctl = ctl_of(map);
  if (take_spare(map, own, self, index)) return 1;
  if (!is_roomy(map)) sweep_spares(map, own, self, SWEEP_WINDOW);
  if ((u32)rt_load(&ctl->free_head) != 0 && pop_free(map, self, index)) return 1;
  if (rt_load(&ctl->fresh) < map->max_entries) {
    u32 at = rt_add(&ctl->fresh, 1);
    if (at < map->max_entries) {
      rt_store(&elem_at(map, at)->state, self);
      *index = at;
      return 1;
    }
  }
  sweep_spares(map, own, self, RECLAIM_WINDOW); /* what others had locked when it was its turn */
  if (is_lru(map) && evict(map, own, self, index)) return 1;
  if (reclaim(map, own, self, index)) return 1;
  return pop_free(map, self, index);
}

/* As rt_copy_words; most keys and values are one word. */
RT_INLINE void copy_word(void* dst, const void* src, u32 len) {
  if (RT_LIKELY(len == 8)) {
    rt_store((u64*)dst, *(const u64_any*)src);
  } else if (len == 4) {
    rt_store((u32_any*)dst, *(const u32_any*)src);
  } else {
    rt_copy_words(dst, src, len);
  }
}

RT_INLINE void put_value(const struct vm_map* map, u8* dst, const void* value,
                         enum rt_value_source source, int fresh) {
  if (value == 0) { /* of a thread */
    rt_zero_words(dst, map->value_stride);
  } else if (map->type != RT_MAP_PERCPU_HASH && map->type != RT_MAP_LRU_PERCPU_HASH) {
    copy_word(dst, value, map->value_size);
  } else if (source == RT_VALUE_ALL_CPUS) {
    for (u32 cpu = 0; cpu < map->cpu_count; cpu++) {
      rt_copy_words(dst + (u64)cpu * map->value_stride,
                    (const u8*)value + (u64)cpu * map->value_stride, map->value_size);
    }
  } else {
    if (fresh) rt_zero_words(dst, (u64)map->cpu_count * map->value_stride);
    rt_copy_words(dst + (u64)rt_cpu(map->cpu_count) * map->value_stride, value, map->value_size);
  }
}

static long insert_locked(const struct vm_map* map, struct rt_bucket* bucket, u32 hash,
                          const void* key, const void* value, u32 self,
                          enum rt_value_source source) {
  u32 index;
  if (!alloc_elem(map, bucket, self, &index)) return is_lru(map) ? -RT_ENOMEM : -RT_E2BIG;
  struct rt_elem* elem = elem_at(map, index);
  rt_store(&elem->hash, hash);
  copy_word(key_of(elem), key, map->key_size);
  put_value(map, value_of(map, elem), value, source, 1);
  if (is_lru(map)) rt_store(ref_of(map, index), 0);
  u32 head = rt_load(&bucket->head);
  if (head == 0) head = RT_NULLS | (hash & (map->bucket_count - 1));
  rt_store_release(&elem->next, head);
  rt_store_release(&bucket->head, index + 1);
  rt_store_release(&elem->state, RT_ELEM_LINKED);
  return 0;
}

long rt_hash_update(const struct vm_map* map, const void* key, const void* value, u64 flags,
                    enum rt_value_source source) {
  if (flags > 2) return -RT_EINVAL;
  u32 hash = hash_of(map, key);
  struct rt_bucket* bucket = bucket_at(map, hash);
  u32 self = rt_owner();
  if (rt_lock(&bucket->owner, self) != 0) return -RT_EBUSY;
  struct rt_elem* elem = find(map, key, hash);
  long ret = 0;
  if (elem != 0) {
    if (flags == 1) {
      ret = -RT_EEXIST;
    } else {
      put_value(map, value_of(map, elem), value, source, 0);
      if (is_lru(map)) touch_lru(map, elem);
    }
  } else if (flags == 2) {
    ret = -RT_ENOENT;
  } else {
    ret = insert_locked(map, bucket, hash, key, value, self, source);
  }
  rt_unlock(&bucket->owner);
  return ret;
}

long rt_hash_delete(const struct vm_map* map, const void* key) {
  u32 hash = hash_of(map, key);
  struct rt_bucket* bucket = bucket_at(map, hash);
  u32 self = rt_owner();
  if (rt_lock(&bucket->owner, self) != 0) return -RT_EBUSY;
  u32 index = 0;
  u32* link = link_of(map, bucket, key, hash, &index);
  int is_spare = 0;
  if (link != 0) {
    unlink_elem(elem_at(map, index), link, self);
    is_spare = make_spare(map, bucket, index, self);
  }
  rt_unlock(&bucket->owner);
  if (link == 0) return -RT_ENOENT;
  if (!is_spare) push_free(map, index, self);
  return 0;
}

long rt_hash_next_key(const struct vm_map* map, const void* key, void* next_out) {
  u32 bucket = 0;
  if (key != 0) {
    u32 hash = hash_of(map, key);
    struct rt_elem* elem = find(map, key, hash);
    if (elem != 0) {
      u32 link = rt_load_acquire(&elem->next);
      if (link - 1 < map->max_entries) {
        rt_memcpy(next_out, key_of(elem_at(map, link - 1)), map->key_size);
        return 0;
      }
      bucket = (hash & (map->bucket_count - 1)) + 1;
    }
  }
  for (; bucket < map->bucket_count; bucket++) {
    u32 link = rt_load_acquire(&bucket_at(map, bucket)->head);
    if (link - 1 >= map->max_entries) continue;
    rt_memcpy(next_out, key_of(elem_at(map, link - 1)), map->key_size);
    return 0;
  }
  return -RT_ENOENT;
}

long rt_hash_iterate(const struct vm_map* map, u64* cursor, void* key_out, u8** value_out) {
  u32 end = rt_load_acquire(&ctl_of(map)->fresh);
  if (end > map->max_entries) end = map->max_entries;
  while (*cursor < end) {
    struct rt_elem* elem = elem_at(map, (u32)(*cursor)++);
    if (rt_load_acquire(&elem->state) != RT_ELEM_LINKED) continue;
    if (key_out != 0) rt_memcpy(key_out, key_of(elem), map->key_size);
    *value_out = value_of(map, elem);
    return 0;
  }
  return -RT_ENOENT;
}

u32 rt_hash_count(const struct vm_map* map) {
  u32 end = rt_load_acquire(&ctl_of(map)->fresh);
  if (end > map->max_entries) end = map->max_entries;
  u32 count = 0;
  for (u32 at = 0; at < end; at++) count += rt_load(&elem_at(map, at)->state) == RT_ELEM_LINKED;
  return count;
}

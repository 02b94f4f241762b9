/* SPDX-License-Identifier: MIT */
#include "lpm.h"

#include "hash.h"
#include "rt.h"

#define FIND_RETRIES 8
#define PREFIX_BYTES 4u

/* struct bpf_lpm_trie_key: u32 length in bits, then the bits, the first one highest. */
struct prefix {
  u32 len;
  u8 data[RT_LPM_DATA_BYTES_MAX];
};

RT_INLINE struct rt_lpm_ctl* ctl_of(const struct vm_map* map) {
  return (struct rt_lpm_ctl*)(map->base + RT_LPM_CTL_OFF);
}
RT_INLINE u32 bits_max(const struct vm_map* map) { return (map->key_size - PREFIX_BYTES) * 8; }

int rt_lpm_check(const struct vm_map* map) {
  u32 data_bytes = map->key_size - PREFIX_BYTES;
  return map->key_size > PREFIX_BYTES && data_bytes <= RT_LPM_DATA_BYTES_MAX ? 0 : -RT_EINVAL;
}

/* Clears everything behind the first `len` bits; `from`: bits from there on are clear already. */
RT_INLINE void shorten(struct prefix* prefix, u32 from, u32 len) {
  u32 keep = len / 8;
  u32 end = (from + 7) / 8;
  if (keep < end && len % 8 != 0) {
    prefix->data[keep] &= (u8)(0xff00u >> (len % 8));
    keep++;
  }
  while (keep < end) prefix->data[keep++] = 0;
  prefix->len = len;
}

/* 0: the key is longer than the map's. */
RT_INLINE int normalise(const struct vm_map* map, const void* key, struct prefix* prefix) {
  rt_memcpy(prefix, key, map->key_size);
  if (prefix->len > bits_max(map)) return 0;
  shorten(prefix, bits_max(map), prefix->len);
  return 1;
}

/* The longest length in use of at most `len`; -1 if there is none. */
RT_INLINE s32 length_in_use(const struct vm_map* map, u32 len) {
  const u64* words = ctl_of(map)->lengths;
  u64 mask = len % 64 == 63 ? ~0ull : (1ull << (len % 64 + 1)) - 1;
  for (s32 i = (s32)(len / 64); i >= 0; i--, mask = ~0ull) {
    u64 word = rt_load(&words[i]) & mask;
    if (word != 0) return i * 64 + 63 - __builtin_clzll(word);
  }
  return -1;
}

u8* rt_lpm_find(const struct vm_map* map, const void* key) {
  u8* best = 0;
  s32 best_len = -1;
  for (u32 retry = 0; retry < FIND_RETRIES; retry++) {
    u64 deletions = rt_load_acquire(&ctl_of(map)->deletions);
    struct prefix prefix;
    if (!normalise(map, key, &prefix)) return 0;
    u8* value = 0;
    s32 len = (s32)prefix.len;
    while (len >= 0 && (len = length_in_use(map, (u32)len)) >= 0) {
      shorten(&prefix, prefix.len, (u32)len);
      value = rt_hash_find(map, &prefix, 0);
      if (value != 0) break;
      len--;
    }
    /* Somebody may have put in a longer one and then taken out the shorter: we missed both. */
    if (rt_load_acquire(&ctl_of(map)->deletions) == deletions) return value;
    if (len > best_len) {
      best = value;
      best_len = len;
    }
  }
  return best; /* deletions never cease: the longest that was there at some time since we began */
}

long rt_lpm_update(const struct vm_map* map, const void* key, const void* value, u64 flags) {
  struct prefix prefix;
  if (!normalise(map, key, &prefix)) return -RT_EINVAL;
  if (flags > 2) return -RT_EINVAL;
  u64* word = &ctl_of(map)->lengths[prefix.len / 64];
  u64 bit = 1ull << (prefix.len % 64);
  /* Before it is in: a writer that dies between the two costs lookups a look in vain. */
  if ((rt_load(word) & bit) == 0) __atomic_fetch_or(word, bit, __ATOMIC_ACQ_REL);
  long ret = rt_hash_update(map, &prefix, value, flags, RT_VALUE_THIS_CPU);
  return ret == -RT_E2BIG ? -RT_ENOSPC : ret;
}

long rt_lpm_delete(const struct vm_map* map, const void* key) {
  struct prefix prefix;
  if (!normalise(map, key, &prefix)) return -RT_EINVAL;
  __atomic_fetch_add(&ctl_of(map)->deletions, 1, __ATOMIC_ACQ_REL);
  return rt_hash_delete(map, &prefix);
}

long rt_lpm_next_key(const struct vm_map* map, const void* key, void* next_out) {
  struct prefix prefix;
  if (key == 0 || !normalise(map, key, &prefix)) return rt_hash_next_key(map, 0, next_out);
  return rt_hash_next_key(map, &prefix, next_out);
}

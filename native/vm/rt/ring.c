/* SPDX-License-Identifier: MIT */
/* Both ends of ring buffers; ring.h has the layout and the rules. */
#include "ring.h"

#include "rt.h"

#define STUCK_NS 100000000ull /* a BUSY record older than this is checked for a dead owner */

struct ring {
  u64* consumer_pos;
  struct rt_ring_producer* producer;
  u8* data;
  u64 size;
};

RT_INLINE struct ring ring_at(const struct vm_map* map, u32 index) {
  u64 skip = (u64)index * map->elem_stride;
  u8* control = map->base + map->bucket_off + skip;
  struct ring ring = {(u64*)control, (struct rt_ring_producer*)(control + ABI_PAGE_BYTES),
                      map->base + map->data_off + skip, map->value_stride};
  return ring;
}

u32 rt_ring_count(const struct vm_map* map) {
  if (map->type == RT_MAP_PERF_EVENT_ARRAY) return map->cpu_count;
  return map->type == RT_MAP_RINGBUF ? 1 : 0;
}

static void* lose(const struct ring* ring) {
  rt_add(&ring->producer->lost, 1);
  return 0;
}

void* rt_ring_reserve(const struct vm_map* map, u32 index, u64 len) {
  struct ring ring = ring_at(map, index);
  if (len > ring.size - RT_RING_HDR_BYTES) return 0;
  u64 total = (len + RT_RING_HDR_BYTES + 7) & ~7ull;
  u32 self = rt_owner();
  if (RT_UNLIKELY(rt_lock(&ring.producer->owner, self) != 0)) return lose(&ring);
  u64 pos = rt_load(&ring.producer->pos) & ~7ull;
  u64 used = pos - rt_load_acquire(ring.consumer_pos);
  u64 off = pos & (ring.size - 1);
  u64 left = ring.size - off;
  u64 need = total <= left ? total : left + total;
  if (RT_UNLIKELY(used > ring.size || need > ring.size - used)) {
    rt_unlock(&ring.producer->owner);
    return lose(&ring);
  }
  if (RT_UNLIKELY(total > left)) {
    struct rt_ring_hdr* pad = (struct rt_ring_hdr*)(ring.data + off);
    pad->owner = 0;
    rt_store(&pad->len, (u32)(left - RT_RING_HDR_BYTES) | RT_RING_DISCARD);
    off = 0;
  }
  struct rt_ring_hdr* hdr = (struct rt_ring_hdr*)(ring.data + off);
  hdr->owner = self;
  rt_store(&hdr->len, (u32)len | RT_RING_BUSY);
  rt_store_release(&ring.producer->pos, pos + need);
  rt_unlock(&ring.producer->owner);
  return hdr + 1;
}

void rt_ring_commit(void* data, int discard) {
  struct rt_ring_hdr* hdr = (struct rt_ring_hdr*)data - 1;
  u32 len = rt_load(&hdr->len) & ~RT_RING_BUSY;
  rt_store_release(&hdr->len, discard ? len | RT_RING_DISCARD : len);
}

long rt_ring_output(const struct vm_map* map, u32 index, const void* data, u64 len) {
  if (len > map->value_stride - RT_RING_HDR_BYTES) return -RT_E2BIG;
  void* record = rt_ring_reserve(map, index, len);
  if (record == 0) return -RT_EAGAIN;
  rt_memcpy(record, data, len);
  rt_ring_commit(record, 0);
  return 0;
}

u64 rt_ring_lost(const struct vm_map* map, u32 index) {
  return rt_load(&ring_at(map, index).producer->lost);
}

u64 rt_ring_pending(const struct vm_map* map, u32 index) {
  struct ring ring = ring_at(map, index);
  u64 pending = rt_load_acquire(&ring.producer->pos) - rt_load(ring.consumer_pos);
  return pending > ring.size ? 0 : pending;
}

/* A BUSY record at `pos`: 1 if its producer is dead and it may be skipped. */
static int is_abandoned(struct rt_ring_cursor* cursor, u64 pos, u32 owner) {
  u64 now_ns = rt_clock_ns(1);
  if (cursor->stuck_since_ns == 0 || cursor->stuck_pos != pos) {
    cursor->stuck_pos = pos;
    cursor->stuck_since_ns = now_ns;
    return 0;
  }
  if (now_ns - cursor->stuck_since_ns < STUCK_NS) return 0;
  int alive =
      cursor->owner_alive != 0 ? cursor->owner_alive(cursor->arg, owner) : rt_owner_alive(owner);
  if (alive) return 0;
  cursor->skipped++;
  return 1;
}

long rt_ring_consume(const struct vm_map* map, u32 index, struct rt_ring_cursor* cursor, u32 limit,
                     int (*take)(void* arg, const void* data, u32 len), void* arg) {
  struct ring ring = ring_at(map, index);
  u64 pos = rt_load(ring.consumer_pos);
  u64 end = rt_load_acquire(&ring.producer->pos);
  u64 told = pos; /* what the producer knows of */
  u32 taken = 0;
  int stop = 0;
  while (!stop && taken < limit && pos != end) {
    u64 off = pos & (ring.size - 1);
    struct rt_ring_hdr* hdr = (struct rt_ring_hdr*)(ring.data + off);
    int sane = end - pos <= ring.size && (pos & 7) == 0 && (end & 7) == 0;
    u32 len = sane ? rt_load_acquire(&hdr->len) : 0;
    u32 bytes = len & ~(RT_RING_BUSY | RT_RING_DISCARD);
    u64 total = ((u64)bytes + RT_RING_HDR_BYTES + 7) & ~7ull;
    if (!sane || total > ring.size - off || total > end - pos) {
      cursor->corrupt++;
      pos = end & ~7ull;
      break;
    }
    if (len & RT_RING_BUSY) {
      if (!is_abandoned(cursor, pos, rt_load(&hdr->owner))) break;
    } else if (!(len & RT_RING_DISCARD)) {
      stop = take(arg, hdr + 1, bytes);
      taken++;
    }
    pos += total;
    /* Every store takes this line away from the producer. */
    if (pos - told < ring.size / 16) continue;
    rt_store_release(ring.consumer_pos, pos);
    told = pos;
  }
  if (pos != told) rt_store_release(ring.consumer_pos, pos);
  return (long)taken;
}

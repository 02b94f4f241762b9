/* SPDX-License-Identifier: MIT */
/* Ring buffers with the kernel's memory layout: consumer page, producer page, data. Record: u32
 * length with BUSY and DISCARD bits, u32 owner, then the bytes; the next record starts at the next
 * multiple of 8.
 *
 * Unlike the kernel's, a record never wraps: what is left at the end becomes a discarded record, so
 * no second mapping of the data is needed (a record larger than half of the ring may therefore be
 * refused although it would fit). Readers that handle DISCARD read it unchanged. A producer never
 * makes a system call unless it meets a held lock. What does not fit is counted, never waited for.
 */
#ifndef BPFTIME_RT_RING_H
#define BPFTIME_RT_RING_H

#include "../../abi/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(hidden)

#define RT_RING_BUSY (1u << 31)
#define RT_RING_DISCARD (1u << 30)
#define RT_RING_HDR_BYTES 8u

struct rt_ring_hdr {
  u32 len;
  u32 owner; /* thread (or process | RT_OWNER_PROCESS) that reserved it */
};

/* First bytes of the producer page. */
struct rt_ring_producer {
  u64 pos; /* offset 0: where the kernel has it */
  u64 pad0[7];
  u32 owner; /* lock */
  u32 pad1[15];
  u64 lost; /* records that found no room or no lock */
};

/* Writes one record. -EAGAIN: full (counted), -E2BIG: larger than the ring. */
long rt_ring_output(const struct vm_map* map, u32 ring, const void* data, u64 len);
/* Reserves a record; null: full or too large. Ends with rt_ring_commit. */
void* rt_ring_reserve(const struct vm_map* map, u32 ring, u64 len);
void rt_ring_commit(void* data, int discard);
u64 rt_ring_lost(const struct vm_map* map, u32 ring);
u64 rt_ring_pending(const struct vm_map* map, u32 ring); /* bytes not consumed yet */
u32 rt_ring_count(const struct vm_map* map);             /* 1, or CPUs */

/* The daemon's place in one ring; zeroed at first. Producers are hostile: every length is checked,
 * and `data` of the callback lies in shared memory, so copy it before looking at it twice. */
struct rt_ring_cursor {
  u64 stuck_pos;                            /* record that was BUSY at the last look */
  u64 stuck_since_ns;                       /* CLOCK_MONOTONIC */
  u64 skipped;                              /* records abandoned by dead producers */
  u64 corrupt;                              /* times the ring made no sense and was drained */
  int (*owner_alive)(void* arg, u32 owner); /* null: ask the kernel in our pid namespace */
  void* arg;                                /* for owner_alive */
};
/* Hands records to `take` until the ring is empty, `limit` were taken or take returns non-zero.
 * Returns the number taken. One consumer per ring. */
long rt_ring_consume(const struct vm_map* map, u32 ring, struct rt_ring_cursor* cursor, u32 limit,
                     int (*take)(void* arg, const void* data, u32 len), void* arg);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

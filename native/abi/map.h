/* SPDX-License-Identifier: MIT */
/* vm_map: how one process sees one eBPF map.
 *
 * The storage of a map is a memfd mapped shared by the daemon and by every target that uses it. It
 * holds data, links (as indices, never pointers) and nothing that anybody trusts: the geometry
 * below is a private copy per process (the daemon's in its heap, a target's in read-only pages next
 * to the program's GOT), and every index read from shared memory is checked against it. So a
 * hostile target can spoil the contents of its own maps and nothing else. */
#ifndef BPFTIME_ABI_MAP_H
#define BPFTIME_ABI_MAP_H

#include "types.h"

/* One process' view of one map. `type` is the kernel's enum bpf_map_type. */
struct vm_map {
  u8* base;          /* start of the shared storage in THIS process */
  u64 storage_bytes; /* size of the whole mapping, a multiple of the page size */
  u32 type;          /* BPF_MAP_TYPE_* */
  u32 key_size;      /* bytes */
  u32 value_size;    /* bytes, as declared */
  u32 max_entries;   /* ring buffer: data bytes, a power of two */
  u32 map_flags;     /* BPF_F_* as created */
  u32 value_stride;  /* bytes between entries (array, per-CPU array) or CPUs (per-CPU hash) */
  u32 elem_stride;   /* hash: bytes of one element (header, key, values); per-CPU array: of one
                        CPU's block; perf event array: of one ring; see vm/rt/map.h */
  u32 bucket_count;  /* hash: power of two, else 0 */
  u64 data_off;      /* first value (array), element (hash) or data byte (ring) */
  u64 bucket_off;    /* hash: first bucket; ring: first control page */
  u32 cpu_count;     /* possible CPUs, for per-CPU maps and perf event arrays; of maps of maps:
                        how many views of inner maps lie right behind this one; of program
                        arrays: how many words, see vm/tail_call.h */
  u32 id;            /* map id, for people */
};
ABI_ASSERT(sizeof(struct vm_map) == 72, "vm_map is shared by JIT code, agent and daemon");
ABI_ASSERT(offsetof(struct vm_map, data_off) == 48, "the JIT reads vm_map.data_off");

#endif

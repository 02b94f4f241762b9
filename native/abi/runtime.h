/* SPDX-License-Identifier: MIT */
/* rt_env: what the freestanding runtime (native/vm/rt: maps, rings, helpers) must know about the
 * process it runs in. One instance per process: in the agent's private data in a target (filled in
 * by the daemon at entry), a static in the daemon and in tests. Private memory, copied by fork. */
#ifndef BPFTIME_ABI_RUNTIME_H
#define BPFTIME_ABI_RUNTIME_H

#include "map.h"

#define RT_ENV_V2 2u

struct rt_env {
  u32 version;       /* RT_ENV_V2 */
  s32 tid_fs_offset; /* where libc keeps the thread id relative to fs base; <= 0: ask the kernel */
  u64 clock_gettime_fn; /* the vDSO's __vdso_clock_gettime; 0: use the system call */
  struct vm_map log; /* ring buffer for trace_printk records (struct printk_record); base 0: none */
  u32 cpu_count;     /* possible CPUs */
  u32 pid;           /* process id in its own pid namespace; revalidated after fork */
  u64 tsc_mult;      /* reserved for clock by rdtsc; 0: unused */
  u64 lost_printk;   /* printk records that found the ring full */
  u32 guard_mode;    /* 1: SIGSEGV and SIGBUS are ours, see vm/rt/guard.h; 0: read by system call */
  u32 pid_cached;    /* 1: the page rt_pid_page has MADV_WIPEONFORK, so the pid may be kept in it */
  u32 ns_tag;        /* any 7 bits that tell pid namespaces apart, for lock recovery; 0: ours */
  u32 reserved;
  /* See vm/rt/mask.h. */
  s64 rseq_cs_off;  /* of the word rseq_cs of a thread's struct rseq, from fs base; 0: not used */
  u64 caught;       /* signals that may have a handler: bit sig - 1 */
  u32 mask_events;  /* modules came, or else something that may change masks unseen */
  u32 mask_settled; /* the last of these behind which the daemon has seen to it that none does */
  u32 mask_lost;    /* 1: masks cannot be followed any more */
  u32 masks_taken;  /* 1: the agent knows all handlers, and calls those in which nothing is blocked
                     */
  u64 unwind_index; /* struct unwind_index *, see unwind.h; 0: stacks by frame pointers alone */
};
ABI_ASSERT(sizeof(struct rt_env) == 168, "the daemon writes this into targets");

/* A page of the runtime's own; see rt_env.pid_cached. */
struct rt_pid_page {
  u32 pid; /* 0: not known in this process yet */
  u8 rest[ABI_PAGE_BYTES - 4];
};

#define PRINTK_RECORD_V1 1u
#define PRINTK_TEXT_BYTES_MAX 512u

/* One trace_printk line. Followed by text_bytes bytes of text without terminator. */
struct printk_record {
  u32 version; /* PRINTK_RECORD_V1 */
  u32 cpu;
  u32 pid; /* tgid in the target's namespace */
  u32 tid;
  u64 time_ns; /* CLOCK_MONOTONIC */
  char comm[16];
  u32 text_bytes; /* <= PRINTK_TEXT_BYTES_MAX */
  u32 reserved;
};
ABI_ASSERT(sizeof(struct printk_record) == 48, "ring ABI: bump the version when this changes");

#endif

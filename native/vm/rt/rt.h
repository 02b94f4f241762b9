/* SPDX-License-Identifier: MIT */
/* Primitives of the freestanding runtime. It runs inside targets: no libc, no TLS, no allocation,
 * no relocations, general registers only, bounded stack and time, callable from signal handlers.
 * If unsure, do nothing and return an error. */
#ifndef BPFTIME_RT_RT_H
#define BPFTIME_RT_RT_H

#include "../../abi/runtime.h"

#define RT_EPERM 1
#define RT_ENOENT 2
#define RT_ESRCH 3
#define RT_E2BIG 7
#define RT_EAGAIN 11
#define RT_ENOMEM 12
#define RT_EFAULT 14
#define RT_EBUSY 16
#define RT_EEXIST 17
#define RT_EINVAL 22
#define RT_ENOSPC 28
#define RT_ERANGE 34
#define RT_EOPNOTSUPP 95

#define RT_SYS_RT_SIGPROCMASK 14
#define RT_SYS_SCHED_YIELD 24
#define RT_SYS_GETPID 39
#define RT_SYS_GETUID 102
#define RT_SYS_GETGID 104
#define RT_SYS_PRCTL 157
#define RT_SYS_GETTID 186
#define RT_SYS_TKILL 200
#define RT_SYS_CLOCK_GETTIME 228
#define RT_SYS_GETCPU 309
#define RT_SYS_PROCESS_VM_READV 310
#define RT_SYS_PROCESS_VM_WRITEV 311

#define RT_MAP_HASH 1
#define RT_MAP_ARRAY 2
#define RT_MAP_PERF_EVENT_ARRAY 4
#define RT_MAP_PERCPU_HASH 5
#define RT_MAP_PERCPU_ARRAY 6
#define RT_MAP_STACK_TRACE 7
#define RT_MAP_CGROUP_ARRAY 8
#define RT_MAP_LRU_HASH 9
#define RT_MAP_LRU_PERCPU_HASH 10
#define RT_MAP_LPM_TRIE 11
#define RT_MAP_PROG_ARRAY 3
#define RT_MAP_ARRAY_OF_MAPS 12
#define RT_MAP_HASH_OF_MAPS 13
#define RT_MAP_QUEUE 22
#define RT_MAP_STACK 23
#define RT_MAP_RINGBUF 27
#define RT_MAP_TASK_STORAGE 29
#define RT_MAP_BLOOM_FILTER 30

#define RT_FAULT_SIGNALS ((1ull << (7 - 1)) | (1ull << (11 - 1))) /* SIGBUS, SIGSEGV */

#define RT_USER_ADDR_END 0x7ffffffff000ull
#define RT_LOCK_WAIT_NS 10000000ull /* longest wait for a lock whose owner lives */

#define RT_LIKELY(x) __builtin_expect(!!(x), 1)
#define RT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define RT_INLINE static inline __attribute__((always_inline))

/* Definitions are hidden by -fvisibility; uses must know it too, or they go through a GOT. */
#pragma GCC visibility push(hidden)
extern struct rt_env rt_env;
extern struct rt_pid_page rt_pid_page;

RT_INLINE long rt_syscall6(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
  register u64 r10 __asm__("r10") = d;
  register u64 r8 __asm__("r8") = e;
  register u64 r9 __asm__("r9") = f;
  long ret;
  __asm__ volatile("syscall"
                   : "=a"(ret)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return ret;
}
RT_INLINE long rt_syscall2(long nr, u64 a, u64 b) { return rt_syscall6(nr, a, b, 0, 0, 0, 0); }

#define rt_load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define rt_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define rt_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define rt_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define rt_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)

RT_INLINE int rt_cas32(u32* p, u32 old, u32 value) {
  return __atomic_compare_exchange_n(p, &old, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
RT_INLINE int rt_cas64(u64* p, u64 old, u64 value) {
  return __atomic_compare_exchange_n(p, &old, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
/* One instruction, but without the bus: for words that only the holder of a lock changes, against a
 * former holder that was stopped for so long that its lock was taken from it. */
RT_INLINE int rt_claim32(u32* p, u32 old, u32 value) {
  u8 done;
  __asm__ volatile("cmpxchgl %3, %0\n  sete %2"
                   : "+m"(*p), "+a"(old), "=q"(done)
                   : "r"(value)
                   : "memory", "cc");
  return done;
}

/* mem.c */
void rt_memcpy(void* dst, const void* src, u64 len);
void rt_memset(void* dst, int byte, u64 len);
int rt_memeq(const void* a, const void* b, u64 len);
void rt_copy_words(void* dst, const void* src, u64 len); /* 8 aligned bytes at a time, no tearing */
void rt_zero_words(void* dst, u64 len);

/* env.c */
u32 rt_cpu_slow(void);
u32 rt_pid(void);
/* 1 in a child of vfork or posix_spawn, which lives in the memory of its parent. */
int rt_is_memory_borrowed(void);
u64 rt_clock_ns(u32 clock);

#define RT_CPU_PROBED (1u << 31)
#define RT_CPU_RDPID (1u << 0)
extern u32 rt_cpu_bits;

/* This CPU, below count. */
RT_INLINE u32 rt_cpu(u32 count) {
  u64 aux;
  if (RT_LIKELY(rt_load(&rt_cpu_bits) & RT_CPU_RDPID)) {
    __asm__ volatile("rdpid %0" : "=r"(aux));
    aux &= 0xfff;
  } else {
    aux = rt_cpu_slow();
  }
  return RT_LIKELY(aux < count) ? (u32)aux : count - 1;
}

RT_INLINE u32 rt_tid(void) {
  s64 off = rt_env.tid_fs_offset;
  if (RT_LIKELY(off > 0)) {
    u32 tid;
    __asm__ volatile("movl %%fs:(%1), %0" : "=r"(tid) : "r"(off));
    return tid;
  }
  return (u32)rt_syscall2(RT_SYS_GETTID, 0, 0);
}

/* Locks in shared memory hold who took them. Without a cheap thread id it is the process: then a
 * signal handler cannot tell its own thread's lock and waits in vain, once, for RT_LOCK_WAIT_NS. */
#define RT_OWNER_PROCESS (1u << 22)
#define RT_OWNER_ID_MASK (RT_OWNER_PROCESS - 1)
#define RT_OWNER_NS_SHIFT 24 /* bit 23 is RT_ELEM_DELETING */
#define RT_OWNER_NS_MASK 0x7fu
RT_INLINE u32 rt_owner(void) {
  u32 ns = (rt_env.ns_tag & RT_OWNER_NS_MASK) << RT_OWNER_NS_SHIFT;
  if (RT_LIKELY(rt_env.tid_fs_offset > 0)) return ns | (rt_tid() & RT_OWNER_ID_MASK);
  return ns | RT_OWNER_PROCESS | (rt_env.pid & RT_OWNER_ID_MASK);
}
/* 0: certainly gone. */
int rt_owner_alive(u32 owner);
int rt_lock_slow(u32* lock, u32 self);

/* 0, or -EBUSY: see map.h. */
RT_INLINE int rt_lock(u32* lock, u32 self) {
  if (RT_LIKELY(rt_cas32(lock, 0, self))) return 0;
  return rt_lock_slow(lock, self);
}
RT_INLINE void rt_unlock(u32* lock) { rt_store_release(lock, 0); }

#pragma GCC visibility pop
#endif

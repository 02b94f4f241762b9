/* SPDX-License-Identifier: MIT */
/* Who and where we are: process, thread, CPU, clock; and locks that survive their owners. */
#include "rt.h"

struct rt_env rt_env;
__attribute__((aligned(ABI_PAGE_BYTES))) struct rt_pid_page rt_pid_page;
u32 rt_cpu_bits;

static u32 probe_cpu_bits(void) {
  u32 eax = 7, ebx, ecx = 0, edx;
  __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  u32 bits = RT_CPU_PROBED;
  if (ecx & (1u << 22)) bits |= RT_CPU_RDPID;
  rt_store(&rt_cpu_bits, bits);
  return bits;
}

u32 rt_cpu_slow(void) {
  if (!(rt_load(&rt_cpu_bits) & RT_CPU_PROBED)) probe_cpu_bits();
  /* Linux keeps CPU and node in the limit of this GDT segment (vDSO getcpu reads it too). */
  u64 limit = 0;
  u8 valid;
  __asm__ volatile("lsl %2, %0; setz %1" : "+r"(limit), "=q"(valid) : "r"((u64)0x7b) : "cc");
  if (RT_LIKELY(valid)) return limit & 0xfff;
  u32 cpu = 0;
  rt_syscall2(RT_SYS_GETCPU, (u64)&cpu, 0);
  return cpu;
}

/* A child of vfork or posix_spawn lives in the memory of its parent. fork(2) of every libc names a
 * word for the kernel to clear at the end; vfork names none. -1: the kernel does not say (a build
 * without CONFIG_CHECKPOINT_RESTORE). */
static int has_exit_word(void) {
  u64 word = 0;
  const int get_tid_address = 40; /* PR_GET_TID_ADDRESS */
  return rt_syscall2(RT_SYS_PRCTL, get_tid_address, (u64)&word) != 0 ? -1 : word != 0;
}

int rt_is_memory_borrowed(void) {
  const u32 known = rt_env.pid_cached ? rt_load(&rt_pid_page.pid) : 0;
  if (known == 0) return has_exit_word() == 0;
  return known != (u32)rt_syscall2(RT_SYS_GETPID, 0, 0);
}

u32 rt_pid(void) {
  const u32 known = rt_env.pid_cached ? rt_load(&rt_pid_page.pid) : 0;
  if (RT_LIKELY(known != 0)) return known;
  const u32 pid = (u32)rt_syscall2(RT_SYS_GETPID, 0, 0);
  /* The owner of the memory remembers; whoever only borrows it would lie to the owner. */
  if (pid == rt_env.pid || has_exit_word() == 1) rt_store(&rt_pid_page.pid, pid);
  return pid;
}

u64 rt_clock_ns(u32 clock) {
  s64 ts[2] = {0, 0};
  long ret;
  if (RT_LIKELY(rt_env.clock_gettime_fn != 0)) {
    ret = ((int (*)(int, s64*))rt_env.clock_gettime_fn)((int)clock, ts);
  } else {
    ret = rt_syscall2(RT_SYS_CLOCK_GETTIME, clock, (u64)ts);
  }
  return ret != 0 ? 0 : (u64)ts[0] * 1000000000u + (u64)ts[1];
}

int rt_owner_alive(u32 owner) {
  /* In another pid namespace the number means somebody else, or nobody: assume alive. */
  if (owner >> RT_OWNER_NS_SHIFT != (rt_env.ns_tag & RT_OWNER_NS_MASK)) return 1;
  return rt_syscall2(RT_SYS_TKILL, owner & RT_OWNER_ID_MASK, 0) != -RT_ESRCH;
}

int rt_lock_slow(u32* lock, u32 self) {
  for (u32 spin = 0; spin < 500; spin++) {
    u32 owner = rt_load(lock);
    if (owner == 0 && rt_cas32(lock, 0, self)) return 0;
    /* Our own thread holds it: we are a signal handler that interrupted it. */
    if (owner == self && !(self & RT_OWNER_PROCESS)) return -RT_EBUSY;
    __asm__ volatile("pause");
  }
  u64 start_ns = rt_clock_ns(1);
  for (u32 round = 0;; round++) {
    u32 owner = rt_load(lock);
    if (owner == 0 && rt_cas32(lock, 0, self)) return 0;
    if (owner != 0 && (round & 15) == 0 && !rt_owner_alive(owner)) {
      if (rt_cas32(lock, owner, self)) return 0;
    }
    if (rt_clock_ns(1) - start_ns > RT_LOCK_WAIT_NS) {
      /* Whoever is in another namespace cannot be asked; after this long it is taken for dead.
       * At worst two writers meet in one chain, which every reader survives. */
      int foreign = owner >> RT_OWNER_NS_SHIFT != self >> RT_OWNER_NS_SHIFT;
      if (owner != 0 && foreign && rt_cas32(lock, owner, self)) return 0;
      return -RT_EBUSY;
    }
    rt_syscall2(RT_SYS_SCHED_YIELD, 0, 0);
  }
}

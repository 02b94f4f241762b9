/* SPDX-License-Identifier: MIT */
/* rt_env for the daemon and the tests; in a target the daemon fills it in instead. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "helpers.h"
#include "unwind.h"

extern struct rt_pid_page rt_pid_page;

/* glibc tells debuggers where a thread's descriptor keeps its id: {bits, count, offset}. */
static s32 find_tid_offset(void) {
  const u32* field = dlvsym(RTLD_DEFAULT, "_thread_db_pthread_tid", "GLIBC_PRIVATE");
  if (field == NULL || field[0] != 32 || field[2] > 4096) return -1;
  u32 tid;
  __asm__ volatile("movl %%fs:(%1), %0" : "=r"(tid) : "r"((s64)field[2]));
  return tid == (u32)syscall(SYS_gettid) ? (s32)field[2] : -1;
}

u64 rt_true_return(u64 slot, u64 addr) {
  (void)slot;
  return addr;
}

void rt_env_init_hosted(void) {
  rt_env.version = RT_ENV_V2;
  rt_env.pid = (u32)getpid();
  rt_env.tid_fs_offset = find_tid_offset();
  rt_env.clock_gettime_fn = (u64)(uintptr_t)&clock_gettime;
  long cpus = sysconf(_SC_NPROCESSORS_CONF);
  rt_env.cpu_count = cpus > 0 ? (u32)cpus : 1;
  rt_env.pid_cached = madvise(&rt_pid_page, sizeof(rt_pid_page), MADV_WIPEONFORK) == 0;
}

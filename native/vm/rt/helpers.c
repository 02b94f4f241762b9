/* SPDX-License-Identifier: MIT */
/* The helpers of helper_list.h: argument conversion, limits and the kernel's return values. */
#include "helpers.h"

#include "../../abi/frame.h"
#include "format.h"
#include "guard.h"
#include "map.h"
#include "number.h"
#include "ring.h"
#include "rt.h"
#include "stacks.h"
#include "tasks.h"
#include "unwind.h"

#define HELPER(fn)                                                       \
  u64 fn(__attribute__((unused)) u64 r1, __attribute__((unused)) u64 r2, \
         __attribute__((unused)) u64 r3, __attribute__((unused)) u64 r4, \
         __attribute__((unused)) u64 r5)
#define MAP(r) ((const struct vm_map*)(r))

#define NS_PER_JIFFY 4000000u /* HZ=250; programs only ever subtract */
#define CLOCK_MONOTONIC_ID 1u
#define CLOCK_MONOTONIC_COARSE_ID 6u
#define CLOCK_BOOTTIME_ID 7u
#define CLOCK_TAI_ID 11u
#define LOOPS_MAX (1u << 23) /* the kernel's BPF_MAX_LOOPS */
#define PR_GET_NAME_OP 16u
#define VPRINTK_ARGS_MAX 12u
#define PERF_INDEX_MASK 0xffffffffull /* also BPF_F_CURRENT_CPU */
#define RING_FLAGS 3ull               /* NO_WAKEUP, FORCE_WAKEUP: nobody is ever woken */
#define STACK_SKIP_MASK 0xffull
#define STACK_USER (1ull << 8)
#define STACK_BUILD_ID (1ull << 11)

HELPER(rt_help_map_lookup) { return (u64)rt_map_lookup(MAP(r1), (const void*)r2); }
HELPER(rt_help_map_update) {
  return (u64)rt_map_update(MAP(r1), (const void*)r2, (const void*)r3, r4);
}
HELPER(rt_help_map_delete) { return (u64)rt_map_delete(MAP(r1), (const void*)r2); }
HELPER(rt_help_map_lookup_percpu) {
  return (u64)rt_map_lookup_percpu(MAP(r1), (const void*)r2, (u32)r3);
}

HELPER(rt_help_map_push) { return (u64)rt_map_push(MAP(r1), (const void*)r2, r3); }
HELPER(rt_help_map_pop) { return (u64)rt_map_pop(MAP(r1), (void*)r2); }
HELPER(rt_help_map_peek) { return (u64)rt_map_peek(MAP(r1), (void*)r2); }

/* Sizes are u32 in the prototypes: the upper half of the register means nothing. */
HELPER(rt_help_probe_read) { return (u64)rt_read_user((void*)r1, r3, (u32)r2); }
HELPER(rt_help_probe_read_str) { return (u64)rt_read_user_str((void*)r1, r3, (u32)r2); }
HELPER(rt_help_probe_write) { return (u64)rt_write_user(r1, (const void*)r2, (u32)r3); }

HELPER(rt_help_ktime) { return rt_clock_ns(CLOCK_MONOTONIC_ID); }
HELPER(rt_help_ktime_boot) { return rt_clock_ns(CLOCK_BOOTTIME_ID); }
HELPER(rt_help_ktime_coarse) { return rt_clock_ns(CLOCK_MONOTONIC_COARSE_ID); }
HELPER(rt_help_ktime_tai) { return rt_clock_ns(CLOCK_TAI_ID); }
HELPER(rt_help_jiffies) { return rt_clock_ns(CLOCK_MONOTONIC_COARSE_ID) / NS_PER_JIFFY; }

HELPER(rt_help_cpu) { return rt_cpu(rt_env.cpu_count != 0 ? rt_env.cpu_count : 1); }
HELPER(rt_help_numa_node) {
  u32 cpu, node;
  return rt_syscall6(RT_SYS_GETCPU, (u64)&cpu, (u64)&node, 0, 0, 0, 0) == 0 ? node : 0;
}
HELPER(rt_help_pid_tgid) { return (u64)rt_pid() << 32 | rt_tid(); }
HELPER(rt_help_uid_gid) {
  u64 uid = (u32)rt_syscall2(RT_SYS_GETUID, 0, 0);
  u64 gid = (u32)rt_syscall2(RT_SYS_GETGID, 0, 0);
  return gid << 32 | uid;
}

static void read_comm(char comm[16]) {
  rt_memset(comm, 0, 16);
  rt_syscall2(RT_SYS_PRCTL, PR_GET_NAME_OP, (u64)comm);
  comm[15] = 0;
}

HELPER(rt_help_comm) {
  char comm[16];
  char* out = (char*)r1;
  u32 size = (u32)r2;
  if (size == 0) return (u64)-RT_EINVAL;
  read_comm(comm);
  rt_memset(out, 0, size);
  rt_memcpy(out, comm, size < 16 ? size : 16);
  out[size - 1] = 0;
  return 0;
}

/* splitmix64 over a counter and the clock, so that threads and forked children differ; nothing of
 * the target's own generators is touched. */
static u64 prandom_counter;
HELPER(rt_help_prandom) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  u64 x = rt_add(&prandom_counter, 0x9e3779b97f4a7c15ull) + ((u64)high << 32 | low);
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return (u32)(x ^ x >> 31);
}

static long print_line(const char* format, u32 format_size, const u64* args, u32 arg_count) {
  struct {
    struct printk_record record;
    char text[PRINTK_TEXT_BYTES_MAX];
  } line;
  long len = rt_format(line.text, sizeof(line.text), format, format_size, args, arg_count);
  if (len < 0) return len;
  if (rt_env.log.base == 0) return len;
  line.record.version = PRINTK_RECORD_V1;
  line.record.cpu = rt_cpu(rt_env.cpu_count != 0 ? rt_env.cpu_count : 1);
  line.record.pid = rt_pid();
  line.record.tid = rt_tid();
  line.record.time_ns = rt_clock_ns(CLOCK_MONOTONIC_ID);
  read_comm(line.record.comm);
  u32 text_bytes = len < (long)sizeof(line.text) ? (u32)len : (u32)sizeof(line.text) - 1;
  line.record.text_bytes = text_bytes;
  line.record.reserved = 0;
  if (rt_ring_output(&rt_env.log, 0, &line, sizeof(line.record) + text_bytes) != 0) {
    rt_add(&rt_env.lost_printk, 1);
  }
  return len;
}

HELPER(rt_help_trace_printk) {
  u64 args[3] = {r3, r4, r5};
  return (u64)print_line((const char*)r1, (u32)r2, args, 3);
}

HELPER(rt_help_trace_vprintk) {
  u32 bytes = (u32)r4;
  if (bytes % 8 != 0 || bytes / 8 > VPRINTK_ARGS_MAX || (bytes != 0 && r3 == 0)) {
    return (u64)-RT_EINVAL;
  }
  return (u64)print_line((const char*)r1, (u32)r2, (const u64*)r3, bytes / 8);
}

HELPER(rt_help_snprintf) {
  u32 bytes = (u32)r5;
  if (bytes % 8 != 0 || bytes / 8 > VPRINTK_ARGS_MAX || (bytes != 0 && r4 == 0)) {
    return (u64)-RT_EINVAL;
  }
  /* The verifier of the kernel demands a constant, terminated format; its length is not passed. */
  long len = rt_format((char*)r1, (u32)r2, (const char*)r3, PRINTK_TEXT_BYTES_MAX, (const u64*)r4,
                       bytes / 8);
  return (u64)(len < 0 ? len : len + 1);
}

HELPER(rt_help_perf_output) {
  const struct vm_map* map = MAP(r2);
  u64 index = r3 & PERF_INDEX_MASK;
  if ((r3 & ~PERF_INDEX_MASK) != 0) return (u64)-RT_EINVAL;
  if (index == PERF_INDEX_MASK) index = rt_cpu(map->cpu_count);
  if (index >= map->max_entries) return (u64)-RT_E2BIG;
  if (index >= map->cpu_count) return (u64)-RT_ENOENT;
  long ret = rt_ring_output(map, (u32)index, (const void*)r4, r5);
  return (u64)(ret == -RT_EAGAIN ? -RT_ENOSPC : ret);
}

HELPER(rt_help_ring_output) {
  if ((r4 & ~RING_FLAGS) != 0) return (u64)-RT_EINVAL;
  long ret = rt_ring_output(MAP(r1), 0, (const void*)r2, r3);
  return (u64)(ret == 0 ? 0 : -RT_EAGAIN);
}
HELPER(rt_help_ring_reserve) { return r3 != 0 ? 0 : (u64)rt_ring_reserve(MAP(r1), 0, r2); }
HELPER(rt_help_ring_submit) {
  rt_ring_commit((void*)r1, 0);
  return 0;
}
HELPER(rt_help_ring_discard) {
  rt_ring_commit((void*)r1, 1);
  return 0;
}
HELPER(rt_help_ring_query) {
  const struct vm_map* map = MAP(r1);
  const u64* consumer_pos = (const u64*)(map->base + map->bucket_off);
  const u64* producer_pos = (const u64*)(map->base + map->bucket_off + ABI_PAGE_BYTES);
  switch (r2) {
    case 0:
      return rt_ring_pending(map, 0);
    case 1:
      return map->max_entries;
    case 2:
      return rt_load(consumer_pos);
    case 3:
      return rt_load(producer_pos);
    default:
      return 0;
  }
}

HELPER(rt_help_for_each) {
  if (r4 != 0) return (u64)-RT_EINVAL;
  return (u64)rt_map_for_each(MAP(r1), (rt_each_fn*)r2, r3);
}
HELPER(rt_help_loop) {
  rt_helper_fn* fn = (rt_helper_fn*)r2;
  u32 rounds = (u32)r1;
  if (r4 != 0) return (u64)-RT_EINVAL;
  if (rounds > LOOPS_MAX) return (u64)-RT_E2BIG;
  for (u32 i = 0; i < rounds; i++) {
    if (fn(i, r3, 0, 0, 0) != 0) return i + 1;
  }
  return rounds;
}

HELPER(rt_help_strtol) { return (u64)rt_parse_long((const char*)r1, r2, r3, (s64*)r4); }
HELPER(rt_help_strtoul) { return (u64)rt_parse_ulong((const char*)r1, r2, r3, (u64*)r4); }

HELPER(rt_help_task) { return rt_task_current(); }
HELPER(rt_help_task_get) { return (u64)rt_task_get(MAP(r1), (const void*)r3, r4); }
HELPER(rt_help_task_delete) { return (u64)rt_task_delete(MAP(r1)); }

HELPER(rt_help_func_ip) { return ((const struct probe_frame*)r1)->func_ip; }
/* Only programs that replace a function get here: see native/bpf/verification.h. */
HELPER(rt_help_override_return) {
  struct probe_frame* frame = (struct probe_frame*)r1;
  frame->regs.ax = r2;
  frame->is_answered = 1;
  return 0;
}
HELPER(rt_help_cookie) { return ((const struct probe_frame*)r1)->cookie; }

HELPER(rt_help_strncmp) {
  const u8* a = (const u8*)r1;
  const u8* b = (const u8*)r3;
  for (u32 i = 0; i < (u32)r2; i++) {
    if (a[i] != b[i]) return (u64)(s64)(a[i] < b[i] ? -1 : 1);
    if (a[i] == 0) break;
  }
  return 0;
}

/* There is no kernel stack below a program of ours. */
static long check_stack_flags(u64 flags, u64 also_known) {
  if ((flags & ~(STACK_SKIP_MASK | STACK_USER | also_known)) != 0) return -RT_EINVAL;
  return (flags & STACK_USER) == 0 ? -RT_EOPNOTSUPP : 0;
}

HELPER(rt_help_get_stack) {
  u64 ips[RT_STACK_FRAMES_MAX];
  u8* out = (u8*)r2;
  u32 size = (u32)r3;
  u32 entry = (r4 & STACK_BUILD_ID) != 0 ? sizeof(struct rt_build_id) : sizeof(u64);
  long refused = size % entry != 0 ? -RT_EINVAL : check_stack_flags(r4, STACK_BUILD_ID);
  if (refused != 0) {
    rt_memset(out, 0, size);
    return (u64)refused;
  }
  u32 room = size / entry < RT_STACK_FRAMES_MAX ? size / entry : RT_STACK_FRAMES_MAX;
  u32 count = rt_stack_walk((const struct probe_frame*)r1, (u32)(r4 & STACK_SKIP_MASK), ips, room);
  if (entry == sizeof(u64)) {
    rt_memcpy(out, ips, (u64)count * entry);
  } else {
    rt_stack_build_ids(ips, count, (struct rt_build_id*)out);
  }
  rt_memset(out + (u64)count * entry, 0, size - count * entry);
  return (u64)count * entry;
}

HELPER(rt_help_get_stackid) {
  u64 ips[RT_STACK_FRAMES_MAX];
  const struct vm_map* map = MAP(r2);
  long refused = check_stack_flags(r3, RT_STACK_FAST_COMPARE | RT_STACK_REUSE);
  if (refused != 0) return (u64)refused;
  u32 depth = map->value_size / 8;
  u32 count = rt_stack_walk((const struct probe_frame*)r1, (u32)(r3 & STACK_SKIP_MASK), ips,
                            depth < RT_STACK_FRAMES_MAX ? depth : RT_STACK_FRAMES_MAX);
  return (u64)(count == 0 ? -RT_EFAULT : rt_stacks_put(map, ips, count, r3));
}

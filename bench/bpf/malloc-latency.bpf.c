// SPDX-License-Identifier: MIT
// How long malloc takes, as a histogram of powers of two: entry remembers the time by thread,
// return takes the difference. WITHOUT_CLOCK and WITHOUT_HASH tell where the probe's own time goes.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#ifdef WITHOUT_CLOCK
#define NOW() 1
#else
#define NOW() bpf_ktime_get_ns()
#endif

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, __u64);
} begun SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 64);
  __type(key, __u32);
  __type(value, __u64);
} histogram SEC(".maps");

__u64 last;

static __always_inline __u32 log2_of(__u64 value) {
  __u32 log = 0;
  for (__u32 step = 32; step > 0; step >>= 1) {
    if (value >> step) {
      value >>= step;
      log += step;
    }
  }
  return log;
}

SEC("uprobe/libc.so.6:malloc")
int enter(void* ctx) {
  const __u64 now = NOW();
#ifdef WITHOUT_HASH
  last = now;
#else
  const __u32 thread = (__u32)bpf_get_current_pid_tgid();
  bpf_map_update_elem(&begun, &thread, &now, BPF_ANY);
#endif
  return 0;
}

SEC("uretprobe/libc.so.6:malloc")
int leave(void* ctx) {
#ifdef WITHOUT_HASH
  const __u64 start = last;
#else
  const __u32 thread = (__u32)bpf_get_current_pid_tgid();
  const __u64* begin = bpf_map_lookup_elem(&begun, &thread);
  if (!begin) return 0;
  const __u64 start = *begin;
  bpf_map_delete_elem(&begun, &thread);
#endif
  const __u32 slot = log2_of(NOW() - start);
  __u64* count = bpf_map_lookup_elem(&histogram, &slot);
  if (count) __sync_fetch_and_add(count, 1);
  return 0;
}

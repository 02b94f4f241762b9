// SPDX-License-Identifier: MIT
// One program per map type, globals, a static subprogram and printk; test-run with struct pt_regs.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

enum event_kind { EVENT_OPEN = 1, EVENT_CLOSE = 2 };

struct event {
  __u64 time_ns;
  __u32 pid;
  enum event_kind kind;
  char name[16];
  __u8 flag : 1;
  __u8 level : 3;
  __s16 delta;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, __u32);
  __type(value, __u64);
} counts SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} slots SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} percpu SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 64);
  __type(key, __u64);
  __type(value, struct event);
} recent SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
  __type(value, struct event);
} events SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
  __uint(key_size, 4);
  __uint(value_size, 4);
} samples SEC(".maps");

__u64 total = 100;
__u64 calls;
const volatile __u32 step = 7;

static __attribute__((noinline)) int add_to(__u32 key, __u64 amount) {
  __u64* value = bpf_map_lookup_elem(&counts, &key);
  if (value != 0) {
    __sync_fetch_and_add(value, amount);
    return (int)*value;
  }
  bpf_map_update_elem(&counts, &key, &amount, BPF_ANY);
  return (int)amount;
}

SEC("uprobe/count")
int count(struct pt_regs* ctx) {
  return add_to((__u32)PT_REGS_PARM1(ctx), (__u64)PT_REGS_PARM2(ctx));
}

SEC("uprobe/arrays")
int arrays(struct pt_regs* ctx) {
  __u32 key = (__u32)PT_REGS_PARM1(ctx);
  __u32 zero = 0;
  __u64* slot = bpf_map_lookup_elem(&slots, &key);
  __u64* mine = bpf_map_lookup_elem(&percpu, &zero);
  if (mine != 0) *mine += 1;
  if (slot == 0) return -1;
  *slot += step;
  return (int)*slot;
}

SEC("uprobe/globals")
int globals(struct pt_regs* ctx) {
  calls++;
  total += step;
  return (int)total;
}

SEC("uprobe/emit")
int emit(struct pt_regs* ctx) {
  struct event* event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
  if (event == 0) return 0;
  __builtin_memset(event, 0, sizeof(*event));
  event->time_ns = bpf_ktime_get_ns();
  event->pid = bpf_get_current_pid_tgid() >> 32;
  event->kind = EVENT_CLOSE;
  event->flag = 1;
  event->level = 5;
  event->delta = -3;
  bpf_probe_read_user_str(event->name, sizeof(event->name), (void*)PT_REGS_PARM1(ctx));
  __u64 key = event->pid;
  bpf_map_update_elem(&recent, &key, event, BPF_ANY);
  bpf_perf_event_output(ctx, &samples, BPF_F_CURRENT_CPU, event, sizeof(*event));
  bpf_ringbuf_submit(event, 0);
  return 1;
}

SEC("uretprobe/print")
int print(struct pt_regs* ctx) { return bpf_printk("returned %d", (int)PT_REGS_RC(ctx)); }

// A section that libbpf does not know.
SEC("syscall/openat/enter")
int custom(struct pt_regs* ctx) { return 42; }

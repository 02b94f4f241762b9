// SPDX-License-Identifier: MIT
// Does everything that a program can do in a probe, so that whoever checks registers has something
// to find: maps of each kind, a ring buffer, reads of memory, text, the clock.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct big {
  char bytes[400];
};

#define MAP(name, kind)        \
  struct {                     \
    __uint(type, kind);        \
    __uint(max_entries, 64);   \
    __type(key, __u32);        \
    __type(value, struct big); \
  } name SEC(".maps")
MAP(hash, BPF_MAP_TYPE_HASH);
MAP(lru, BPF_MAP_TYPE_LRU_HASH);
MAP(slots, BPF_MAP_TYPE_ARRAY);
MAP(percpu, BPF_MAP_TYPE_PERCPU_ARRAY);

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 16);
} ring SEC(".maps");

__u64 ran;

static __always_inline int do_all(struct pt_regs* ctx) {
  const __u32 slot = 0;
  struct big* own = bpf_map_lookup_elem(&percpu, &slot);
  if (!own) return 0;
  bpf_probe_read_user(own->bytes, sizeof own->bytes, (void*)(PT_REGS_SP(ctx) & ~63ull));
  bpf_probe_read_user(own->bytes, 24, (void*)8);  // which cannot be read
  __u32 key = bpf_get_prandom_u32() % 100;
  bpf_map_update_elem(&hash, &key, own, BPF_ANY);
  bpf_map_update_elem(&lru, &key, own, BPF_ANY);
  bpf_map_update_elem(&slots, &slot, own, BPF_ANY);
  key = bpf_get_prandom_u32() % 100;
  bpf_map_delete_elem(&hash, &key);
  bpf_ringbuf_output(&ring, own, 300, 0);
  char name[16];
  bpf_get_current_comm(name, sizeof name);
  if ((bpf_ktime_get_ns() & 0xfff) == 0) bpf_printk("%s at %lx", name, PT_REGS_IP(ctx));
  __sync_fetch_and_add(&ran, 1);
  return 0;
}

SEC("uprobe")
int enter(struct pt_regs* ctx) { return do_all(ctx); }

#ifndef ENTRY_ONLY
SEC("uretprobe")
int leave(struct pt_regs* ctx) { return do_all(ctx); }
#endif

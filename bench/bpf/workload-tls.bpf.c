// SPDX-License-Identifier: MIT
// What a TLS sniffer does: entry and return of SSL_read and SSL_write, the first bytes of what was
// read or written go to a ring buffer. TEXT_BYTES and the switches below make the variants by which
// docs/benchmarks.md says where the time goes.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#ifndef RING_BYTES
#define RING_BYTES (1024 * 1024)
#endif
#ifndef TEXT_BYTES
#define TEXT_BYTES 128
#endif

struct event {
  __u32 pid;
  __u32 is_write;
  __s32 bytes;
  char text[TEXT_BYTES];
};

const struct event* event_type;  // so that the object says what a record is

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, RING_BYTES);
} events SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, __u64);
  __type(value, __u64);
} under_way SEC(".maps");

__u64 lost;

static __always_inline int enter(struct pt_regs* ctx) {
  const __u64 thread = bpf_get_current_pid_tgid();
  const __u64 buf = PT_REGS_PARM2(ctx);
  bpf_map_update_elem(&under_way, &thread, &buf, BPF_ANY);
  return 0;
}

static __always_inline int leave(struct pt_regs* ctx, __u32 is_write) {
  const __u64 thread = bpf_get_current_pid_tgid();
  const __u64* buf = bpf_map_lookup_elem(&under_way, &thread);
  if (!buf) return 0;
  const void* from __attribute__((unused)) = (const void*)*buf;
  bpf_map_delete_elem(&under_way, &thread);
  const __s32 bytes = (__s32)PT_REGS_RC(ctx);
  if (bytes <= 0) return 0;
#ifndef WITHOUT_RING
  struct event* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
  if (!event) {
    __sync_fetch_and_add(&lost, 1);
    return 0;
  }
  event->pid = (__u32)(thread >> 32);
  event->is_write = is_write;
  event->bytes = bytes;
  __u32 size = (__u32)bytes < TEXT_BYTES ? (__u32)bytes : TEXT_BYTES - 1;
  __asm__ volatile("" : "+r"(size));  // the kernel's verifier wants the mask to stay
  size &= TEXT_BYTES - 1;
  event->text[size] = 0;
#ifndef WITHOUT_READ
  if (bpf_probe_read_user(event->text, size, from) != 0) event->bytes = -1;
#else
  event->text[0] = 0;
#endif
  bpf_ringbuf_submit(event, 0);
#endif
  return 0;
}

SEC("uprobe/libssl.so.3:SSL_read")
int read_enter(struct pt_regs* ctx) { return enter(ctx); }

SEC("uretprobe/libssl.so.3:SSL_read")
int read_leave(struct pt_regs* ctx) { return leave(ctx, 0); }

SEC("uprobe/libssl.so.3:SSL_write")
int write_enter(struct pt_regs* ctx) { return enter(ctx); }

SEC("uretprobe/libssl.so.3:SSL_write")
int write_leave(struct pt_regs* ctx) { return leave(ctx, 1); }

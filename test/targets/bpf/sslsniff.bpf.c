// SPDX-License-Identifier: MIT
// The first bytes of everything that a process reads and writes through libssl, in clear text.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

enum direction { READ = 0, WRITE = 1 };

struct event {
  __u32 pid;
  enum direction direction;
  __s32 bytes;
  char text[64];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 20);
  __type(value, struct event);
} requests SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 1024);
  __type(key, __u64);
  __type(value, __u64);
} reading SEC(".maps");

static __always_inline int send(enum direction direction, __u64 buf, __s32 bytes) {
  if (bytes <= 0) return 0;
  struct event* event = bpf_ringbuf_reserve(&requests, sizeof(*event), 0);
  if (event == 0) return 0;
  event->pid = bpf_get_current_pid_tgid() >> 32;
  event->direction = direction;
  event->bytes = bytes;
  __builtin_memset(event->text, 0, sizeof(event->text));
  __u32 size = bytes < (__s32)sizeof(event->text) ? (__u32)bytes : sizeof(event->text);
  if (bpf_probe_read_user(event->text, size, (void*)buf) != 0) event->bytes = -1;
  bpf_ringbuf_submit(event, 0);
  return 0;
}

SEC("uprobe/libssl.so.3:SSL_read")
int read_enter(struct pt_regs* ctx) {
  __u64 thread = bpf_get_current_pid_tgid();
  __u64 buf = PT_REGS_PARM2(ctx);
  bpf_map_update_elem(&reading, &thread, &buf, BPF_ANY);
  return 0;
}

SEC("uretprobe/libssl.so.3:SSL_read")
int read_leave(struct pt_regs* ctx) {
  __u64 thread = bpf_get_current_pid_tgid();
  __u64* buf = bpf_map_lookup_elem(&reading, &thread);
  if (buf == 0) return 0;
  send(READ, *buf, (__s32)PT_REGS_RC(ctx));
  bpf_map_delete_elem(&reading, &thread);
  return 0;
}

SEC("uprobe/libssl.so.3:SSL_write")
int write_enter(struct pt_regs* ctx) {
  return send(WRITE, PT_REGS_PARM2(ctx), (__s32)PT_REGS_PARM3(ctx));
}

// SPDX-License-Identifier: MIT
// Every line that an interactive bash reads: copied onto the return of readline().
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct event {
  __u32 pid;
  char comm[16];
  char line[80];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 16);
  __type(value, struct event);
} lines SEC(".maps");

SEC("uretprobe")
int BPF_KRETPROBE(typed, const char* line) {
  struct event* event = line == 0 ? 0 : bpf_ringbuf_reserve(&lines, sizeof(*event), 0);
  if (event == 0) return 0;
  __builtin_memset(event, 0, sizeof(*event));
  event->pid = bpf_get_current_pid_tgid() >> 32;
  bpf_get_current_comm(event->comm, sizeof(event->comm));
  bpf_probe_read_user_str(event->line, sizeof(event->line), line);
  bpf_ringbuf_submit(event, 0);
  return 0;
}

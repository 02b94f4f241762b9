// SPDX-License-Identifier: MIT
// Attaches by its sections (cp to hooks/): a record per priced item, a line per order that fails.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

struct event {
  unsigned int pid;
  int count;
  char item[16];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 65536);
  __type(value, struct event);
} sold SEC(".maps");

SEC("uprobe/price_of")
int BPF_KPROBE(priced, const char* item, int count) {
  struct event* event = bpf_ringbuf_reserve(&sold, sizeof(*event), 0);
  if (event == 0) return 0;
  event->pid = bpf_get_current_pid_tgid() >> 32;
  event->count = count;
  __builtin_memset(event->item, 0, sizeof(event->item));
  bpf_probe_read_user_str(event->item, sizeof(event->item), item);
  bpf_ringbuf_submit(event, 0);
  return 0;
}

SEC("uretprobe/serve")
int BPF_KRETPROBE(served, long total) {
  if (total < 0) bpf_printk("an order was refused: %ld", total);
  return 0;
}

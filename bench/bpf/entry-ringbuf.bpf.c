// SPDX-License-Identifier: MIT
// Sends a record of 16 bytes per call. The ring holds a whole round of calls, so that a reader that
// falls behind does not turn the measurement into one of lost records; `lost` says whether it
// did.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct event {
  __u64 arg;
  __u64 ip;
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 32 * 1024 * 1024);
} events SEC(".maps");

__u64 lost;

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  struct event* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
  if (!event) {
    __sync_fetch_and_add(&lost, 1);
    return 0;
  }
  event->arg = PT_REGS_PARM1(ctx);
  event->ip = PT_REGS_IP(ctx);
  bpf_ringbuf_submit(event, 0);
  return 0;
}

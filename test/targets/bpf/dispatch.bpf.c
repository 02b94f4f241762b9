// SPDX-License-Identifier: MIT
// A probe that goes on with one of several programs, for test/live/tails.test.ts. The argument of
// the probed function counts up from 0 in each of its threads.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

int even(struct pt_regs* ctx);
int third(struct pt_regs* ctx);
int chain(struct pt_regs* ctx);
int spare(struct pt_regs* ctx);

struct {
  __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
  __uint(max_entries, 5);
  __uint(key_size, 4);
  __array(values, int(void*));
} programs SEC(".maps") = {
    .values = {[0] = (void*)&even, [1] = (void*)&third, [2] = (void*)&chain, [4] = (void*)&spare}};

__u64 calls, evens, thirds, links, none, spares, bytes;

SEC("uprobe")
int BPF_KPROBE(even, long n) {
  char comm[16];
  __sync_fetch_and_add(&evens, 1);
  if (bpf_probe_read_user(comm, sizeof comm, (void*)PT_REGS_SP(ctx)) == 0) {
    __sync_fetch_and_add(&bytes, sizeof comm);
  }
  return 0;
}
SEC("uprobe")
int BPF_KPROBE(third, long n) {
  if ((n & 3) == 1) __sync_fetch_and_add(&thirds, 1);
  return 0;
}
SEC("uprobe")
int BPF_KPROBE(chain, long n) {
  __sync_fetch_and_add(&links, 1);
  bpf_tail_call(ctx, &programs, 2);
  return 0;
}
// Not chosen where it is at first.
SEC("uprobe")
int BPF_KPROBE(spare, long n) {
  __sync_fetch_and_add(&spares, 1);
  return 0;
}
SEC("uprobe/work")
int BPF_KPROBE(dispatch, long n) {
  __sync_fetch_and_add(&calls, 1);
  bpf_tail_call(ctx, &programs, n & 3);
  __sync_fetch_and_add(&none, 1);
  return 0;
}

// SPDX-License-Identifier: MIT
// For price_of(item, count): more than ten of one item are free of charge.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

unsigned long given_away;

SEC("replace")
int BPF_KPROBE(price, const char* item, int count) {
  if (count > 10) {
    __sync_fetch_and_add(&given_away, 1);
    bpf_override_return(ctx, 0);
  }
  return 0;
}

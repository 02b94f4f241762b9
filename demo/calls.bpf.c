// SPDX-License-Identifier: MIT
// Counts the calls of whatever function it is copied onto, in a global variable.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

unsigned long calls;

SEC("uprobe")
int count(void* ctx) {
  __sync_fetch_and_add(&calls, 1);
  return 0;
}

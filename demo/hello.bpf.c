// SPDX-License-Identifier: MIT
// Prints a line for each call of whatever function it is copied onto.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "MIT";

SEC("uprobe")
int hello(void* ctx) {
  bpf_printk("hello from %d", (int)(bpf_get_current_pid_tgid() >> 32));
  return 0;
}

// SPDX-License-Identifier: MIT
// A program at entry and one at return.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("uprobe")
int enter(void* ctx) { return 0; }

SEC("uretprobe")
int leave(void* ctx) { return 0; }

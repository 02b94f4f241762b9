// SPDX-License-Identifier: MIT
// What a probe costs by itself.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("uprobe")
int enter(void* ctx) { return 0; }

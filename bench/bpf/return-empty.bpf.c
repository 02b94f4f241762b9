// SPDX-License-Identifier: MIT
// What a return probe costs by itself.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("uretprobe")
int leave(void* ctx) { return 0; }

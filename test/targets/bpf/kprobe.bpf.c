// SPDX-License-Identifier: MIT
// BPF_KPROBE and BPF_KRETPROBE argument macros, several programs in one section.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

SEC("uprobe")
int BPF_KPROBE(three, int a, int b, int c) { return a * 100 + b * 10 + c; }

SEC("uprobe")
int BPF_KPROBE(second, long a, long b) { return b; }

SEC("uretprobe")
int BPF_KRETPROBE(result, long value) { return value + 1; }

// SPDX-License-Identifier: MIT
// BPF_USDT and a CO-RE relocation against the kernel's own types.
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>

char LICENSE[] SEC("license") = "GPL";

struct task_struct {
  int pid;
} __attribute__((preserve_access_index));

__u64 pid_offset;

SEC("usdt")
int BPF_USDT(fires, long a) { return (int)a; }

SEC("uprobe/relocated")
int relocated(struct pt_regs* ctx) {
  pid_offset = bpf_core_field_exists(struct task_struct, pid);
  return bpf_core_field_size(struct task_struct, pid);
}

// SPDX-License-Identifier: MIT
// How often each thread called, kept with the thread.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

struct task_struct;

struct mine {
  __u64 calls;
  __u64 tid;
};

struct {
  __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct mine);
} threads SEC(".maps");

__u64 mixed_up;

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  struct task_struct* task = (struct task_struct*)bpf_get_current_task_btf();
  struct mine* mine = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
  if (mine == 0) return 0;
  __u64 tid = (__u32)bpf_get_current_pid_tgid();
  if (mine->calls != 0 && mine->tid != tid) __sync_fetch_and_add(&mixed_up, 1);
  mine->tid = tid;
  mine->calls++;
  return 0;
}

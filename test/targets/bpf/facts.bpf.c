// SPDX-License-Identifier: MIT
// What the helpers say about a call of speak() in speaker.c, in maps of every kind of type.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

enum mood { CALM = 0, LOUD = 7 };

struct point {
  int x, y;
};

struct facts {
  __u64 func_ip;
  __u64 cookie;
  __u32 tgid;
  __u32 tid;
  __u32 uid;
  __u32 gid;
  char comm[16];
  char text[32];
  char formatted[32];
  struct point at;
  enum mood mood;
  __s64 stack_bytes;
  __u64 stack[3];
  __s32 text_bytes;
  __s32 bad_read;
  __s32 compared;
  __u32 cpu;
  __u64 time_ns;
  __u64 boot_ns;
  __u64 random;
};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct facts);
} last SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16);
  __type(key, struct point);
  __type(value, enum mood);
} moods SEC(".maps");

__u64 results[2];

SEC("uprobe")
int look(struct pt_regs* ctx) {
  __u32 zero = 0;
  struct facts* facts = bpf_map_lookup_elem(&last, &zero);
  if (facts == 0) return 0;
  __u64 ids = bpf_get_current_pid_tgid();
  __u64 owner = bpf_get_current_uid_gid();
  facts->func_ip = bpf_get_func_ip(ctx);
  facts->cookie = bpf_get_attach_cookie(ctx);
  facts->tgid = ids >> 32;
  facts->tid = (__u32)ids;
  facts->uid = (__u32)owner;
  facts->gid = owner >> 32;
  bpf_get_current_comm(facts->comm, sizeof(facts->comm));
  __builtin_memset(facts->text, 0, sizeof(facts->text));
  facts->text_bytes =
      bpf_probe_read_user_str(facts->text, sizeof(facts->text), (void*)PT_REGS_PARM1(ctx));
  bpf_probe_read_user(&facts->at, sizeof(facts->at), (void*)PT_REGS_PARM2(ctx));
  facts->mood = (enum mood)PT_REGS_PARM3(ctx);
  char byte;
  facts->bad_read = bpf_probe_read_user(&byte, 1, (void*)0x10);
  facts->compared = bpf_strncmp(facts->text, sizeof(facts->text), "odd words");
  facts->stack_bytes = bpf_get_stack(ctx, facts->stack, sizeof(facts->stack), BPF_F_USER_STACK);
  facts->cpu = bpf_get_smp_processor_id();
  facts->time_ns = bpf_ktime_get_ns();
  facts->boot_ns = bpf_ktime_get_boot_ns();
  facts->random = bpf_get_prandom_u32();
  BPF_SNPRINTF(facts->formatted, sizeof(facts->formatted), "%s at %d", facts->text, facts->at.y);
  enum mood mood = facts->mood;
  struct point at = facts->at;
  bpf_map_update_elem(&moods, &at, &mood, BPF_ANY);
  bpf_printk("speak %s x=%d mood=%u", facts->text, facts->at.x, facts->mood);
  return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(answer, long result) {
  __sync_fetch_and_add(&results[result == 2 + (-5) ? 0 : 1], 1);
  return 0;
}

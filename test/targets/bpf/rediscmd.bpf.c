// SPDX-License-Identifier: MIT
// Counts the commands of redis-server 7.0 by name: copied onto call(client *c, int flags).
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

// server.h of redis 7.0: client.cmd, redisCommand.declared_name. Debian ships no debug information.
#define CLIENT_CMD 112
#define COMMAND_NAME 0

struct name {
  char text[16];
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 512);
  __type(key, struct name);
  __type(value, __u64);
} commands SEC(".maps");

__u64 unreadable;

SEC("uprobe")
int command(struct pt_regs* ctx) {
  struct name name = {};
  __u64 cmd = 0;
  __u64 text = 0;
  __u64 one = 1;
  bpf_probe_read_user(&cmd, sizeof(cmd), (void*)(PT_REGS_PARM1(ctx) + CLIENT_CMD));
  bpf_probe_read_user(&text, sizeof(text), (void*)(cmd + COMMAND_NAME));
  if (bpf_probe_read_user_str(name.text, sizeof(name.text), (void*)text) <= 0) {
    __sync_fetch_and_add(&unreadable, 1);
    return 0;
  }
  __u64* count = bpf_map_lookup_elem(&commands, &name);
  if (count != 0) {
    __sync_fetch_and_add(count, 1);
  } else {
    bpf_map_update_elem(&commands, &name, &one, BPF_ANY);
  }
  return 0;
}

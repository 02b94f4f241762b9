// SPDX-License-Identifier: MIT
// For call(client *c, int flags) of redis-server 7.0: how often each command was executed.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

// Offsets in server.h of redis 7.0: client.cmd, then redisCommand.declared_name.
enum { CLIENT_CMD = 112, COMMAND_NAME = 0 };

struct command {
  char name[16];
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 512);
  __type(key, struct command);
  __type(value, unsigned long);
} commands SEC(".maps");

SEC("uprobe")
int BPF_KPROBE(called, const char* client) {
  struct command key = {};
  unsigned long command = 0, name = 0, one = 1;
  bpf_probe_read_user(&command, sizeof(command), client + CLIENT_CMD);
  bpf_probe_read_user(&name, sizeof(name), (const void*)(command + COMMAND_NAME));
  if (bpf_probe_read_user_str(key.name, sizeof(key.name), (const void*)name) <= 0) return 0;
  unsigned long* count = bpf_map_lookup_elem(&commands, &key);
  if (count != 0) {
    __sync_fetch_and_add(count, 1);
  } else {
    bpf_map_update_elem(&commands, &key, &one, BPF_ANY);
  }
  return 0;
}

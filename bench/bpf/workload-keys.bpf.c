// SPDX-License-Identifier: MIT
// Counts redis' look-ups by a hash of the key: lookupKey(redisDb* db, robj* key, int flags).
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define OBJECT_PTR 8  // offset of robj.ptr, which leads to the characters
#define KEY_BYTES 16  // redis-benchmark's keys: key:000000001234

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 32768);
  __type(key, __u64);
  __type(value, __u64);
} keys SEC(".maps");

__u64 unreadable;

SEC("uprobe//usr/bin/redis-server:lookupKey")
int lookup(struct pt_regs* ctx) {
  __u64 words[KEY_BYTES / 8] = {};
#ifdef WITHOUT_READ
  words[0] = words[1] = PT_REGS_PARM2(ctx);
#else
  const char* text = 0;
  const char* object = (const char*)PT_REGS_PARM2(ctx);
  if (bpf_probe_read_user(&text, sizeof text, object + OBJECT_PTR) != 0 ||
      bpf_probe_read_user(words, sizeof words, text) != 0) {
    __sync_fetch_and_add(&unreadable, 1);
    return 0;
  }
#endif
  // FNV-1a by words.
  __u64 hash = 0xcbf29ce484222325ull;
  hash = (hash ^ words[0]) * 0x100000001b3ull;
  hash = (hash ^ words[1]) * 0x100000001b3ull;
  hash ^= hash >> 32;
  __u64* count = bpf_map_lookup_elem(&keys, &hash);
  if (count) {
    __sync_fetch_and_add(count, 1);
  } else {
    const __u64 one = 1;
    bpf_map_update_elem(&keys, &hash, &one, BPF_ANY);
  }
  return 0;
}

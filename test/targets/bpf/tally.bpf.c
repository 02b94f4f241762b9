// SPDX-License-Identifier: MIT
// Counts every call in each kind of map, and numbers every 64th in a ring buffer. -DEDITION=N makes
// other code of it, -DROOM=N another size of the hash, -DBEGIN=N another beginning of a global.
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#ifndef EDITION
#define EDITION 0
#endif
#ifndef ROOM
#define ROOM 64
#endif
#ifndef BEGIN
#define BEGIN 1000
#endif

char LICENSE[] SEC("license") = "MIT";

struct note {
  __u64 number;
  __u32 edition;
};

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, ROOM);
  __type(key, __u32);
  __type(value, __u64);
} hashed SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} slots SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 20);
  __type(value, struct note);
} notes SEC(".maps");

__u64 entries;
__u64 returns;
__u64 begun = BEGIN;
const volatile __u32 edition = EDITION;

static void add_one(void* map, __u32 key) {
  __u64* value = bpf_map_lookup_elem(map, &key);
  if (value != 0) {
    __sync_fetch_and_add(value, 1);
    return;
  }
  __u64 zero = 0;
  bpf_map_update_elem(map, &key, &zero, BPF_NOEXIST);
  value = bpf_map_lookup_elem(map, &key);
  if (value != 0) __sync_fetch_and_add(value, 1);
}

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  add_one(&hashed, 7);
  add_one(&slots, 1);
  __sync_fetch_and_add(&begun, 1);
  const __u64 number = __sync_fetch_and_add(&entries, 1);
  if (number % 64 != 0) return 0;
  struct note* note = bpf_ringbuf_reserve(&notes, sizeof(*note), 0);
  if (note == 0) return 0;
  note->number = number;
  note->edition = edition;
  bpf_ringbuf_submit(note, 0);
  return 0;
}

SEC("uretprobe")
int leave(struct pt_regs* ctx) {
  __sync_fetch_and_add(&returns, 1);
  return 0;
}

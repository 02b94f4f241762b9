// SPDX-License-Identifier: MIT
// Reads memory at the pointers given to touch(page, text, kind), which may be bad in every way, and
// counts what came of it: results[kind * 8 + outcome].
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "MIT";

enum outcome {
  READ_OK,
  READ_FAULT,
  READ_OTHER,
  READ_WRONG,
  TEXT_OK,
  TEXT_FAULT,
  TEXT_OTHER,
  TEXT_WRONG
};

#define EFAULT_RESULT (-14)
#define KINDS 8
#define KIND_GOOD 0
#define PATTERN 0x5a5a5a5a5a5a5a5aull

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, KINDS * 8);
  __type(key, __u32);
  __type(value, __u64);
} results SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 4);
  __type(key, __u32);
  __type(value, __u64);
} returned SEC(".maps");

static __attribute__((always_inline)) void add_one(void* map, __u32 key) {
  __u64* value = bpf_map_lookup_elem(map, &key);
  if (value != 0) __sync_fetch_and_add(value, 1);
}

SEC("uprobe")
int enter(struct pt_regs* ctx) {
  __u32 kind = (__u32)PT_REGS_PARM3(ctx);
  if (kind >= KINDS) return 0;
  __u64 words[2] = {1, 1};
  long err = bpf_probe_read_user(words, sizeof words, (void*)PT_REGS_PARM1(ctx));
  __u32 outcome = err == 0 ? READ_OK : err == EFAULT_RESULT ? READ_FAULT : READ_OTHER;
  if (kind == KIND_GOOD && words[1] != PATTERN) outcome = READ_WRONG;
  if (err != 0 && (words[0] | words[1]) != 0) outcome = READ_WRONG;  // a failed read leaves zeros
  add_one(&results, kind * 8 + outcome);

  char text[32];
  long length = bpf_probe_read_user_str(text, sizeof text, (void*)PT_REGS_PARM2(ctx));
  outcome = length > 0 ? TEXT_OK : length == EFAULT_RESULT ? TEXT_FAULT : TEXT_OTHER;
  if (kind == KIND_GOOD && (length != 6 || text[0] != 'w' || text[4] != 'd')) outcome = TEXT_WRONG;
  add_one(&results, kind * 8 + outcome);
  return 0;
}

SEC("uretprobe")
int leave(struct pt_regs* ctx) {
  __u64 word;
  long err = bpf_probe_read_user(&word, sizeof word, (void*)PT_REGS_RC(ctx));
  add_one(&returned, err == 0 ? READ_OK : err == EFAULT_RESULT ? READ_FAULT : READ_OTHER);
  return 0;
}

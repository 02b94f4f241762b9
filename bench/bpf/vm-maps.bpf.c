// SPDX-License-Identifier: MIT
// What bench/vm-maps.ts times: one operation on a map 64 times a run, in the kernel (-DKERNEL, as
// XDP) and here.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define OPERATIONS 64
#if defined(KERNEL)
#define PROGRAM(name) SEC("xdp") int name(void* ctx)
#else
#define PROGRAM(name) SEC("uprobe/" #name) int name(void* ctx)
#endif
#define MAP(name, kind, entries, key_type, value_type) \
  struct {                                             \
    __uint(type, kind);                                \
    __uint(max_entries, entries);                      \
    __type(key, key_type);                             \
    __type(value, value_type);                         \
  } name SEC(".maps")
#define REPEAT _Pragma("clang loop unroll(disable)") for (__u32 i = 0; i < OPERATIONS; i++)

MAP(array, BPF_MAP_TYPE_ARRAY, 64, __u32, __u64);
MAP(percpu, BPF_MAP_TYPE_PERCPU_ARRAY, 64, __u32, __u64);
MAP(hash, BPF_MAP_TYPE_HASH, 1024, __u32, __u64);
MAP(lru, BPF_MAP_TYPE_LRU_HASH, 1024, __u32, __u64);

__u32 next_key, is_filled;

PROGRAM(empty) {
  (void)ctx;
  return 2;
}

PROGRAM(loop) {
  __u64 sum = 0;
  (void)ctx;
  REPEAT {
    __u32 key = i;
    asm volatile("" : "+r"(key));
    sum += key;
  }
  return sum != 0 ? 2 : 1;
}

#define LOOKUP(name, map)                             \
  PROGRAM(name) {                                     \
    __u64 sum = 0;                                    \
    (void)ctx;                                        \
    REPEAT {                                          \
      __u32 key = i;                                  \
      __u64* value = bpf_map_lookup_elem(&map, &key); \
      if (value) sum += *value;                       \
    }                                                 \
    return sum == 12345 ? 1 : 2;                      \
  }
LOOKUP(array_lookup, array)
LOOKUP(percpu_lookup, percpu)

PROGRAM(hash_lookup) {
  __u64 sum = 0;
  (void)ctx;
  if (!is_filled) {
    REPEAT {
      __u32 key = i;
      __u64 value = i;
      bpf_map_update_elem(&hash, &key, &value, BPF_ANY);
    }
    is_filled = 1;
  }
  REPEAT {
    __u32 key = i;
    __u64* value = bpf_map_lookup_elem(&hash, &key);
    if (value) sum += *value;
  }
  return sum == 12345 ? 1 : 2;
}

#define UPDATE(name, map, key_of_turn)                  \
  PROGRAM(name) {                                       \
    (void)ctx;                                          \
    REPEAT {                                            \
      __u32 key = key_of_turn;                          \
      __u64 value = i;                                  \
      bpf_map_update_elem(&map, &key, &value, BPF_ANY); \
    }                                                   \
    return 2;                                           \
  }
UPDATE(hash_update, hash, i)
UPDATE(lru_update, lru, next_key++)

PROGRAM(helper) {
  __u64 sum = 0;
  (void)ctx;
  REPEAT sum += bpf_get_current_pid_tgid();
  return sum == 12345 ? 1 : 2;
}

char LICENSE[] SEC("license") = "GPL";

// SPDX-License-Identifier: MIT
// The maps that verifier tests know, by id:
//   1 counts   hash, key 4, value 16          6 .rodata  constant: "hi %d", u32 7 at 8, 16 bytes
//   2 table    array of 1, value 64           7 programs program array
//   3 events   ring buffer of 4096 bytes      8 jobs     queue, value 8
//   4 samples  perf event array               9 seen     bloom filter, value 8
//   5 percpu   per-CPU array of 4, value 8    10 stacks  stack trace map
//   11 tables  array of maps like 12: a hash, key 4, value 8      13 tasks    task storage, value
//   16
#pragma once

#include <linux/bpf.h>

#include <cstring>

#include "vm/verify/verify.h"

namespace vmtest {

using bpftime::verify::MapShape;

inline constexpr MapShape kShapes[] = {
    {},
    {BPF_MAP_TYPE_HASH, 4, 16, 16, 0, false, "counts"},
    {BPF_MAP_TYPE_ARRAY, 4, 64, 1, 0, false, "table"},
    {BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, false, "events"},
    {BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 2, 0, false, "samples"},
    {BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4, 0, false, "percpu"},
    {BPF_MAP_TYPE_ARRAY, 4, 16, 1, BPF_F_RDONLY_PROG, true, ".rodata"},
    {BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 2, 0, false, "programs"},
    {BPF_MAP_TYPE_QUEUE, 0, 8, 4, 0, false, "jobs"},
    {BPF_MAP_TYPE_BLOOM_FILTER, 0, 8, 64, 0, false, "seen"},
    {BPF_MAP_TYPE_STACK_TRACE, 4, 64, 16, 0, false, "stacks"},
    {BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 4, 0, false, "tables", 12},
    {BPF_MAP_TYPE_HASH, 4, 8, 4, 0, false, "tables"},
    {BPF_MAP_TYPE_TASK_STORAGE, 4, 16, 65536, BPF_F_NO_PREALLOC, false, "tasks"},
};
inline constexpr uint8_t kConstants[16] = {'h', 'i', ' ', '%', 'd', 0, 0, 0, 7};

inline MapShape shape_of(void* /*user*/, uint32_t id) {
  return id < std::size(kShapes) ? kShapes[id] : MapShape{};
}

inline bool constant_of(void* /*user*/, uint32_t id, uint64_t offset, uint32_t bytes,
                        uint64_t* value) {
  if (id != 6 || offset > sizeof kConstants || bytes > sizeof kConstants - offset) return false;
  *value = 0;
  std::memcpy(value, kConstants + offset, bytes);
  return true;
}

inline bpftime::verify::Options verify_options() {
  bpftime::verify::Options options;
  options.prog_type = BPF_PROG_TYPE_KPROBE;
  static const bpftime::HelperSet helpers = [] {
    bpftime::HelperSet set;
    set.set();
    set.reset(499);
    return set;
  }();
  options.helpers = &helpers;
  options.maps = {shape_of, constant_of, nullptr};
  return options;
}

}  // namespace vmtest

// SPDX-License-Identifier: MIT
// Tail calls: bpf_tail_call(ctx, programs, index) goes on with another program in place of the one
// that calls. What can be gone on with lies right behind a process' private view of the program
// array, `vm_map.cpu_count` words: an entry address for machine code, a Program* for the
// interpreter. The shared storage holds, under each index, a place among these, from 1 on: a number
// that somebody scribbled leads to another of these programs, or nowhere.
#pragma once

#include <linux/bpf.h>

#include <cstdint>

#include "../abi/map.h"

namespace bpftime {

inline constexpr uint32_t kTailCallsMax = 33;  // of one run, as the kernel's MAX_TAIL_CALL_CNT
inline constexpr uint32_t kTailStride = 8;     // bytes between elements of the storage

/// What stands behind the view for an index. 0: nothing is there, or the index is beyond the array.
[[nodiscard]] inline uint64_t tail_entry(const vm_map* programs, uint32_t index) {
  if (index >= programs->max_entries) return 0;
  const u8* const element = programs->base + uint64_t{index} * kTailStride;
  const uint32_t place = __atomic_load_n(reinterpret_cast<const u32*>(element), __ATOMIC_RELAXED);
  if (place - 1 >= programs->cpu_count) return 0;
  return reinterpret_cast<const u64*>(programs + 1)[place - 1];
}

}  // namespace bpftime

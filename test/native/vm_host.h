// SPDX-License-Identifier: MIT
// The world that test programs run in: a few helpers and two maps.
//   call 1    map_lookup_elem, as the kernel numbers it (so that it may be inlined)
//   call 2    r1 + 2 r2 + 3 r3 + 4 r4 + 5 r5
//   call 3    destroys r1-r5 and every other register that a callee may, returns r1 + 1
//   call 4    1 if the stack is aligned as the psABI says, else 0
//   call 5    calls r1(i, r3) for i < r2; returns how many calls returned 0 before the first did
//   not call 8    get_smp_processor_id: 0 when not inlined map 7     ARRAY of 5 values of 24 bytes
//   map 8     ARRAY of 1 value of 8 bytes map 9     PERCPU_ARRAY of 3 values of 8 bytes
#pragma once

#include <linux/bpf.h>
#include <sched.h>

#include <cstring>

#include "vm/vm.h"

namespace vmtest {

using bpftime::GotKind;
using bpftime::GotSlot;
using bpftime::MapGeometry;

inline constexpr uint32_t kCpuMax = 64;

struct Map {
  MapGeometry geometry;
  uint8_t bytes[16384];
};

struct World {
  Map maps[3];
};

inline World world;

inline void reset_world() {
  world.maps[0].geometry = {BPF_MAP_TYPE_ARRAY, 5, 24, 0, 1, 64};
  world.maps[1].geometry = {BPF_MAP_TYPE_ARRAY, 1, 8, 0, 1, 64};
  world.maps[2].geometry = {BPF_MAP_TYPE_PERCPU_ARRAY, 3, 8, 64, kCpuMax, 64};
  for (Map& map : world.maps) {
    for (size_t i = 0; i < sizeof map.bytes; ++i) map.bytes[i] = static_cast<uint8_t>(i * 7);
  }
}

inline Map* find_map(uint32_t id) { return id >= 7 && id <= 9 ? &world.maps[id - 7] : nullptr; }

inline MapGeometry geometry_of(void* /*user*/, uint32_t id) {
  const Map* map = find_map(id);
  return map != nullptr ? map->geometry : MapGeometry{};
}

inline uint64_t lookup(uint64_t map_ptr, uint64_t key_ptr, uint64_t, uint64_t, uint64_t) {
  auto* map = reinterpret_cast<Map*>(map_ptr);
  const uint32_t key = *reinterpret_cast<const uint32_t*>(key_ptr);
  if (key >= map->geometry.max_entries) return 0;
  uint64_t offset = map->geometry.data_off + uint64_t{key} * map->geometry.value_stride;
  if (map->geometry.type == BPF_MAP_TYPE_PERCPU_ARRAY) {
    offset += static_cast<uint64_t>(sched_getcpu()) * map->geometry.elem_stride;
  }
  return reinterpret_cast<uint64_t>(map->bytes) + offset;
}

inline uint64_t weigh(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  return a + 2 * b + 3 * c + 4 * d + 5 * e;
}

inline uint64_t clobber(uint64_t a, uint64_t, uint64_t, uint64_t, uint64_t) {
  uint64_t result = a + 1;
  __asm__ volatile(
      "mov $-1, %%rdi; mov %%rdi, %%rsi; mov %%rdi, %%rdx; mov %%rdi, %%rcx; mov %%rdi, %%r8;"
      "mov %%rdi, %%r9; mov %%rdi, %%r10; mov %%rdi, %%r11"
      : "+a"(result)
      :
      : "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11");
  return result;
}

// Returns (rsp + 8) % 16 == 0, as it must be at the first instruction of a function.
__attribute__((naked)) inline uint64_t aligned(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  __asm__("lea 8(%rsp), %rax; and $15, %eax; cmp $1, %eax; sbb %eax, %eax; neg %eax; ret");
}

inline uint64_t loop(uint64_t callback, uint64_t count, uint64_t ctx, uint64_t, uint64_t) {
  const auto fn = reinterpret_cast<uint64_t (*)(uint64_t, uint64_t)>(callback);
  uint64_t i = 0;
  while (i < count && fn(i, ctx) == 0) ++i;
  return i;
}

inline uint64_t cpu(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t) {
  return static_cast<uint64_t>(sched_getcpu());
}

inline uint64_t resolve(void* /*user*/, const GotSlot& slot) {
  if (slot.kind == GotKind::kHelper) {
    constexpr bpftime::HelperFn kHelpers[] = {nullptr, lookup, weigh, clobber, aligned, loop};
    if (slot.index == 8) return reinterpret_cast<uint64_t>(&cpu);
    return slot.index <= 5 ? reinterpret_cast<uint64_t>(kHelpers[slot.index]) : 0;
  }
  Map* map = find_map(slot.index);
  if (map == nullptr) return 0;
  if (slot.kind == GotKind::kMap) return reinterpret_cast<uint64_t>(map);
  return reinterpret_cast<uint64_t>(map->bytes) + map->geometry.data_off + slot.offset;
}

inline bpftime::HelperSet helper_set() {
  bpftime::HelperSet set;
  for (const uint32_t id : {1, 2, 3, 4, 5, 8}) set.set(id);
  return set;
}

}  // namespace vmtest

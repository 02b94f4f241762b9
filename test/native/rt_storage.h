// SPDX-License-Identifier: MIT
// A map in anonymous shared memory, for tests of the runtime.
#pragma once

#include <sys/mman.h>

#include <cstdlib>

#include "vm/rt/map.h"

inline vm_map make_map(u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 flags = 0,
                       u32 cpu_count = 2) {
  vm_map map{};
  map.type = type;
  map.key_size = key_size;
  map.value_size = value_size;
  map.max_entries = max_entries;
  map.map_flags = flags;
  map.cpu_count = cpu_count;
  if (rt_map_layout(&map) != 0) std::abort();
  void* at = mmap(nullptr, map.storage_bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) std::abort();
  map.base = static_cast<u8*>(at);
  rt_map_init(&map);
  return map;
}

inline void free_map(vm_map& map) { munmap(map.base, map.storage_bytes); }

// SPDX-License-Identifier: MIT
// Where a mapped module has its unwind information, by its program headers, and by its sections
// where linkers left those out (musl-gcc). What is read is a process' memory and file: hostile.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "../base/result.h"
#include "eh_frame.h"

namespace bpftime::unwind {

/// Reads `size` bytes at an address; false when they are not all there.
using MemoryReader = std::function<bool(uint64_t addr, void* out, size_t size)>;

constexpr uint64_t kEhFrameBytesMax = uint64_t{64} << 20;

struct ElfModule {
  uint64_t bias = 0;                      // address of link address 0
  uint64_t text_start = 0, text_end = 0;  // as linked
  uint64_t vaddr = 0;                     // of .eh_frame
  std::vector<uint8_t> eh_frame;          // empty: there is none that we can read
  uint8_t build_id[UNWIND_BUILD_ID_BYTES] = {};

  [[nodiscard]] EhFrameInput input() const { return {eh_frame, vaddr, bias, text_start, text_end}; }
};

/// The module whose file's first page is mapped at `start`. ENOEXEC: it is no ELF file for x86-64,
/// or a damaged one. No more than `limit` bytes of unwind information, or none, are read. Where no
/// program header tells of it the sections do, which only the file has: `file` reads at an offset
/// of it, and is not asked otherwise.
Result<ElfModule> read_elf_module(uint64_t start, const MemoryReader& read,
                                  uint64_t limit = kEhFrameBytesMax,
                                  const MemoryReader& file = nullptr);

}  // namespace bpftime::unwind

// SPDX-License-Identifier: MIT
// FunctionView: the original bytes of one function and what decoding them tells.
//
// Pure: bytes in, facts out. Decoding always starts at the function's first byte, never at a
// guessed offset, so an instruction boundary here is one the processor sees too.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "../base/result.h"

namespace bpftime::rewrite {

/// Copies `size` bytes at target address `addr` into `out`; false when not readable.
using MemoryReader = std::function<bool(uint64_t addr, void* out, size_t size)>;

struct Insn {
  uint32_t off = 0;        // from the function's start
  uint8_t len = 0;         // bytes, 1..15
  bool is_branch = false;  // direct jmp, jcc, loop, jrcxz
  bool is_call = false;    // direct or indirect call
  bool is_ret = false;
  bool ends_flow = false;  // ret, jmp, ud2, hlt: the next byte is not reached from here
  bool is_indirect_jump = false;
  bool is_tail_jump = false;   // leaves the function with the stack as it was at its start
  bool is_trap = false;        // int3: a breakpoint of somebody, or padding
  bool is_padding = false;     // nop of any length, int3
  bool is_far_ret = false;     // iret, retf
  uint64_t branch_target = 0;  // absolute, for direct branches and calls; else 0
};

struct FunctionView {
  uint64_t addr = 0;
  std::vector<uint8_t> bytes;            // the function, then up to 16 bytes behind it
  uint32_t size = 0;                     // bytes that belong to the function
  std::vector<Insn> insns;               // in address order; covers [0, size) or stops early
  std::vector<uint64_t> branch_targets;  // sorted; inside the function, from inside it
  bool has_unknown_jump = false;         // an indirect jump whose targets could not be enumerated
  bool has_tail_jump = false;            // leaves by a jump instead of a ret
  uint32_t decoded_end = 0;              // first offset that is not decoded (== size when all is)

  [[nodiscard]] const Insn* at(uint32_t off) const;
};

/// Decodes a whole function.
/// `bytes`: from `addr`, at least `size`, plus what follows it (for padding), up to 16 bytes more.
/// `read` serves jump tables. Fails with EINVAL when the first instruction cannot be decoded.
Result<FunctionView> decode_function(uint64_t addr, uint32_t size, std::span<const uint8_t> bytes,
                                     const MemoryReader& read);

}  // namespace bpftime::rewrite

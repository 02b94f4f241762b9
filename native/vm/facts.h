// SPDX-License-Identifier: MIT
// Facts about a valid program that the compiler and the trampolines use: which registers are live,
// how much stack a function uses, what of its context a program reads. All are conservative.
#pragma once

#include <cstdint>
#include <vector>

#include "flow.h"

namespace bpftime {

/// Per slot: registers whose value may be read after that instruction. `dropped`: per slot, 1 if
/// the instruction is not executed; null or empty: all are.
[[nodiscard]] std::vector<uint16_t> live_after(const Flow& flow,
                                               const std::vector<uint8_t>* dropped = nullptr);

/// What one function needs of its frame.
struct FrameUse {
  uint16_t written = 0;      // registers that some reachable instruction writes
  bool uses_frame = false;   // r10 is read
  uint32_t stack_bytes = 0;  // below r10, at most kFrameBytes
};
[[nodiscard]] FrameUse frame_use(const Flow& flow, const Subprog& subprog,
                                 const std::vector<uint16_t>& live);

struct ContextUse {
  uint32_t read_mask = 0;  // bit i: the program itself may read 8-byte word i of its context
  bool escapes = false;    // a helper or function may read any of it, or it is written
};
/// Follows r1 of the main program. Arities are those of the kernel's helpers.
[[nodiscard]] ContextUse context_use(const Flow& flow);

/// How many arguments a helper of the kernel takes; 5 for ids that are not in the table.
[[nodiscard]] uint32_t helper_arity(uint32_t id);

}  // namespace bpftime

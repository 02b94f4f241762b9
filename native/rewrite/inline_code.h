// SPDX-License-Identifier: MIT
// A compiled program as code that can stand in a trampoline's body, in place of a call. Pure.
//
// What the compiler made is copied, except that addresses come as constants instead of from the
// program's table, and that every `ret` leads to the end. The result does not depend on where it
// lies: it refers to nothing by distance but itself.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace bpftime::rewrite {

/// Longer programs gain nothing that could be measured, and each site has a copy.
constexpr size_t kInlineBytesMax = 160;

struct InlineCode {
  std::vector<uint8_t> bytes;
  bool uses_stack = false;  // pushes, or keeps something below the stack pointer
};

/// The program whose function is the whole of `text`, its table of addresses (`got`) `got_off`
/// bytes behind its start. The result (in rax) of the program is not kept. Null: it calls
/// something, is too long, or does what cannot be put elsewhere.
std::optional<InlineCode> inline_code(std::span<const uint8_t> text, uint64_t got_off,
                                      std::span<const uint64_t> got,
                                      size_t bytes_max = kInlineBytesMax);

}  // namespace bpftime::rewrite

// SPDX-License-Identifier: MIT
// Which registers a compiled program changes, read from its machine code: what a trampoline need
// not save it does not save. Pure.
#pragma once

#include <cstdint>
#include <span>

namespace bpftime::rewrite {

/// Words of struct pt_regs (bit i: word i) whose registers `code` may change and a caller would
/// have to save. Everything, when it calls what is not in `code` or cannot be decoded.
uint32_t clobbered_words(std::span<const uint8_t> code);

}  // namespace bpftime::rewrite

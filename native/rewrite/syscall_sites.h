// SPDX-License-Identifier: MIT
// Where a function makes system calls, and which: the number in rax is followed through the
// function's code as far as it is a constant. Pure: bytes in, facts out.
#pragma once

#include <cstdint>
#include <vector>

#include "../base/result.h"
#include "function_view.h"

namespace bpftime::rewrite {

/// Not a constant: an argument, read from memory, or several.
constexpr int64_t kUnknownCall = -1;

struct SyscallSite {
  uint64_t addr = 0;  // the `syscall` instruction
  int64_t number = kUnknownCall;
  uint64_t front = 0;       // an instruction that every way to the call passes; 0: there is none
  bool is_reached = false;  // from the function's start, by jumps that are known: it is code
  bool is_set_in_window = false;  // rax holds the number behind the window at `front`, not before
};

/// The system calls of a function. `read` serves code outside of it that it jumps to (parts that a
/// compiler put elsewhere). `front` is chosen so that a jump fits between it and the `syscall`,
/// nothing leads in between, and a number that is not a constant is not set behind its window.
std::vector<SyscallSite> find_syscalls(const FunctionView& function, const MemoryReader& read);

}  // namespace bpftime::rewrite

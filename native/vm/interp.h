// SPDX-License-Identifier: MIT
// Interpreter: the reference for what each instruction means. Works from a predecoded Program;
// memory accesses are plain loads and stores, exactly as in compiled code, or checked ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

#include "../base/result.h"
#include "budget.h"
#include "vm.h"

namespace bpftime {

/// A validated program, predecoded and bound to this process' helpers and maps. Immutable: any
/// number of threads may run it.
class Program {
 public:
  static constexpr uint32_t kCallbacksMax = 16;  // functions whose address the program takes

  /// Fails with EINVAL (refused by validate()), ENOENT (`resolver` answers 0 for a helper or map)
  /// or E2BIG (more than kCallbacksMax callbacks).
  /// The program lives in `memory`; null: where everything does. `tail_calls`: as in
  /// CompileOptions.
  static Result<Program> link(std::span<const uint64_t> slots, const Resolver& resolver,
                              std::pmr::memory_resource* memory = nullptr, bool tail_calls = false);

  struct Op {
    uint8_t code;
    uint8_t dst;
    uint8_t src;
    int16_t off;
    uint32_t target;  // op index a jump or local call leads to; atomics: the operation
    uint64_t imm;     // immediate, sign extended; helper address
  };
  [[nodiscard]] const std::pmr::vector<Op>& ops() const { return ops_; }
  [[nodiscard]] uint32_t callback_entry(uint32_t index) const { return callbacks_[index]; }

 private:
  explicit Program(std::pmr::memory_resource* memory) : ops_(memory), callbacks_(memory) {}

  std::pmr::vector<Op> ops_;
  std::pmr::vector<uint32_t> callbacks_;  // op index of each function whose address is taken
};

/// What a checked run is held to: it touches these ranges and its stack, nothing else, and ends
/// within a number of instructions. What helpers do is theirs.
struct Checks {
  struct Range {
    uint64_t begin = 0, end = 0;
  };
  std::vector<Range> ranges;
  uint64_t insns_left = 0;
  Budget* budget = nullptr;  // where to get more of them; null: nowhere
  // out: what it did that it must not, and at which slot; null: nothing
  const char* reason = nullptr;
  uint32_t insn_index = 0;

  Range stack{};  // kept by the run

  [[nodiscard]] bool allows(uint64_t address, uint64_t bytes) const {
    const auto covers = [=](const Range& range) {
      return address >= range.begin && address <= range.end && bytes <= range.end - address;
    };
    return covers(stack) || std::any_of(ranges.begin(), ranges.end(), covers);
  }
  /// When none are left: whether there are more.
  [[nodiscard]] bool refill() {
    if (budget == nullptr) return false;
    budget->left = -1;
    if (bpftime_budget_refill(budget) == 0) return false;
    insns_left = static_cast<uint64_t>(budget->left);
    return true;
  }
  uint64_t refuse(uint32_t slot, const char* why) {
    reason = why;
    insn_index = slot;
    return 0;
  }
};

/// Runs the main program with r1 = ctx and r2 = ctx_bytes; returns r0. Callbacks taken by the
/// program are callable only while this runs and only on the same thread. With `checks` the result
/// counts only if checks->reason is null.
uint64_t interp_run(const Program& program, void* ctx, uint64_t ctx_bytes = 0,
                    Checks* checks = nullptr);

}  // namespace bpftime

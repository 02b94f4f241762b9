// SPDX-License-Identifier: MIT
// Interpreter: the reference for what each instruction means. Works from a predecoded Program;
// memory accesses are plain loads and stores, exactly as in compiled code.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "../base/result.h"
#include "vm.h"

namespace bpftime {

/// A validated program, predecoded and bound to this process' helpers and maps. Immutable: any
/// number of threads may run it.
class Program {
 public:
  static constexpr uint32_t kCallbacksMax = 16;  // functions whose address the program takes

  /// Fails with EINVAL (refused by validate()), ENOENT (`resolver` answers 0 for a helper or map)
  /// or E2BIG (more than kCallbacksMax callbacks).
  static Result<Program> link(std::span<const uint64_t> slots, const Resolver& resolver);

  struct Op {
    uint8_t code;
    uint8_t dst;
    uint8_t src;
    int16_t off;
    uint32_t target;  // op index a jump or local call leads to; atomics: the operation
    uint64_t imm;     // immediate, sign extended; helper address
  };
  [[nodiscard]] const std::vector<Op>& ops() const { return ops_; }
  [[nodiscard]] uint32_t callback_entry(uint32_t index) const { return callbacks_[index]; }

 private:
  std::vector<Op> ops_;
  std::vector<uint32_t> callbacks_;  // op index of each function whose address is taken
};

/// Runs the main program with r1 = ctx and r2 = ctx_bytes; returns r0. Callbacks taken by the
/// program are callable only while this runs and only on the same thread.
uint64_t interp_run(const Program& program, void* ctx, uint64_t ctx_bytes = 0);

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// Shape of a program: subprograms, jump targets, the call graph. build_flow() is the second half of
// structural validation; its result is what the interpreter and the compiler work from.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "isa.h"
#include "vm.h"

namespace bpftime {

struct Subprog {
  uint32_t start = 0;          // first slot
  uint32_t end = 0;            // one past the last slot
  bool address_taken = false;  // by lddw of kind BPF_PSEUDO_FUNC
};

/// A call, with callx resolved: exactly one of the two.
struct CallTarget {
  bool is_helper = false;
  uint32_t value = 0;  // helper id, or first slot of the subprogram
};

struct Flow {
  std::vector<isa::Insn> insns;
  bool has_callbacks = false;         // some subprogram's address is taken
  std::vector<Subprog> subprogs;      // by start; the first is the main program
  std::vector<uint8_t> is_target;     // per slot: a jump leads here, or a subprogram begins
  std::vector<uint8_t> is_second;     // per slot: second half of an lddw
  std::vector<uint8_t> is_reachable;  // per slot: some path from a subprogram's entry leads here

  std::vector<uint8_t> decided;  // per slot: Decision of a branch that compares constants

  enum Decision : uint8_t { kOpen, kAlways, kNever };

  /// Index of the subprogram that contains `slot`.
  [[nodiscard]] uint32_t subprog_of(uint32_t slot) const;
  /// Slot after the instruction at `slot`.
  [[nodiscard]] uint32_t next(uint32_t slot) const {
    return slot + (insns[slot].is_lddw() ? 2 : 1);
  }
  /// First slot that the goto or branch at `slot` leads to.
  [[nodiscard]] uint32_t jump_target(uint32_t slot) const {
    return slot + 1 + static_cast<uint32_t>(insns[slot].jump_off());
  }
  /// Callee of the call at `slot`.
  [[nodiscard]] CallTarget call_target(uint32_t slot) const;
};

/// What the straight-line code before `slot` left in `reg`: the slot of the constant load (mov imm
/// or lddw) that reaches it in the same basic block, or -1.
[[nodiscard]] int64_t constant_def(const Flow& flow, uint32_t slot, uint8_t reg);

/// Fills `flow` from bytecode whose instructions are each valid (validate_insns()).
[[nodiscard]] Verdict build_flow(std::span<const uint64_t> slots, const ValidateOptions& options,
                                 Flow* flow);

/// Why helper `id` may not be called; null if it may. `helpers` as in ValidateOptions.
[[nodiscard]] const char* helper_refusal(uint32_t id, const HelperSet* helpers);

/// First half of validation: each instruction by itself.
[[nodiscard]] Verdict validate_insns(std::span<const uint64_t> slots);

}  // namespace bpftime

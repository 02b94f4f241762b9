// SPDX-License-Identifier: MIT
// Inside of the x86-64 compiler; compile() in vm.h is its face. One pass over the instructions with
// small look-ahead, after facts.h told what is live. BPF registers live in fixed machine registers:
// r0 rax, r1-r5 rdi rsi rdx rcx r8 (so a helper call moves nothing), r6-r9 rbx r13 r14 r15,
// r10 rbp. Scratch: r9, r10, r11. Every function follows the System V ABI; flags are never kept
// across instructions; no vector or x87 register is ever touched.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "dead_code.h"
#include "emit_x86_64.h"
#include "facts.h"
#include "flow.h"
#include "layout.h"
#include "lookup_plan.h"
#include "vm.h"

namespace bpftime {

class JitX86 {
 public:
  JitX86(const Flow& flow, const CompileOptions& options);
  ProgramImage run();

 private:
  using Reg = x86::Reg;
  using Insn = isa::Insn;

  /// Code that is rarely run and stands behind the function.
  struct ColdDivision {
    x86::Label entry;
    x86::Label back;
    Reg dst;
    bool is_mod;
    bool wide;
    bool is_minus_one;  // signed division by -1, else by 0
  };

  enum class TailUse : uint8_t { kNone, kMain, kFunctions };  // where tail calls stand

  static Reg reg(uint8_t bpf_reg);

  // jit_x86_64.cc: functions, control flow
  void compile_function(const Subprog& subprog);
  void compile_segment(const Segment& segment);
  void prologue(const Subprog& subprog);
  void leave_frame();
  void epilogue();
  uint32_t compile_insn(uint32_t slot);
  uint32_t compile_branch(uint32_t slot);
  x86::Cond compare(const Insn& insn);
  void jump_to(uint32_t slot, uint32_t target);
  void branch_to(uint32_t slot, x86::Cond cond, uint32_t target);
  /// Where control is after the instruction at `slot`, of the text that is written.
  [[nodiscard]] uint32_t written_after(uint32_t slot) const;
  x86::Label label_for(uint32_t slot);
  uint32_t compile_lddw(uint32_t slot);
  void cold_code();

  // jit_budget.cc
  void charge(uint32_t insns);
  void charge_jump(uint32_t slot);
  void leave_if_over();
  void cold_budget();
  uint32_t got_slot(GotKind kind, uint32_t index, uint64_t offset);
  [[nodiscard]] const Insn& insn_at(uint32_t slot) const { return flow_.insns[slot]; }
  [[nodiscard]] x86::Label label_of(uint32_t slot) const { return labels_[slot]; }
  /// The instruction `count` after `slot` if control can only come from the one before, else null.
  [[nodiscard]] const Insn* follower(uint32_t slot, uint32_t count) const;
  [[nodiscard]] bool is_live_after(uint32_t slot, uint8_t bpf_reg) const {
    return (live_[slot] >> bpf_reg & 1) != 0;
  }

  // jit_alu.cc
  uint32_t compile_alu(uint32_t slot);
  uint32_t fuse_extension(uint32_t slot);
  uint32_t fuse_rotate(uint32_t slot);
  uint32_t fuse_mov(uint32_t slot);
  uint32_t fuse_address(uint32_t slot, x86::Mem mem, bool wide);
  uint32_t fuse_boolean(uint32_t slot);
  uint32_t fuse_remainder(uint32_t slot);
  void compile_mov(const Insn& insn);
  void compile_add_sub(const Insn& insn);
  void compile_logic(const Insn& insn);
  void compile_mul(const Insn& insn);
  void compile_shift(uint32_t slot);
  void shift_by_reg(uint32_t slot, x86::Shift op);
  void compile_swap(const Insn& insn);
  void compile_div(const Insn& insn, uint32_t slot);
  bool divide_by_constant(const Insn& insn);
  void divide_general(const Insn& insn, uint32_t slot, Reg divisor, bool is_known_nonzero);

  // jit_mem.cc
  uint32_t compile_load(uint32_t slot);
  void compile_store(const Insn& insn);
  void compile_atomic(uint32_t slot);
  void atomic_loop(uint32_t slot);
  uint32_t fuse_atomic(uint32_t slot);

  /// The call of a helper for what its inlined form leaves to it.
  struct ColdLookup {
    x86::Label entry;
    x86::Label back;
    uint32_t map_id;
    std::optional<int32_t> key_off;  // of the key, from rbp; else it is in rsi
  };

  // jit_hash.cc
  void compile_hash_lookup(const InlineLookup& lookup);
  void cold_lookups();

  // jit_tail_call.cc
  [[nodiscard]] bool is_tail_call(uint32_t slot) const;
  [[nodiscard]] TailUse tail_use() const;
  void count_tail_calls();
  void compile_tail_call(uint32_t slot);

  // jit_call.cc
  uint32_t compile_call(uint32_t slot);
  uint32_t compile_lookup(uint32_t slot, const InlineLookup& lookup);
  void lookup_value(const InlineLookup& lookup);
  void cpu_number(Reg dst);
  [[nodiscard]] bool is_inlined_helper(uint32_t id) const;

  const Flow& flow_;
  const CompileOptions& options_;
  std::vector<uint16_t> live_;
  LookupPlan lookups_;
  DeadCode dead_;
  x86::Emitter emit_;
  std::vector<x86::Label> labels_;           // per slot; kNoLabel where nothing jumps to yet
  std::vector<x86::Label> function_labels_;  // per subprogram, before its prologue
  std::vector<GotSlot> got_;
  using GotKey = std::tuple<GotKind, uint32_t, uint64_t>;
  std::map<GotKey, uint32_t> got_index_;
  std::vector<ColdDivision> cold_;
  std::vector<ColdLookup> cold_lookups_;
  struct ColdCharge {
    x86::Label entry;
    x86::Label back;
  };
  std::vector<ColdCharge> cold_charges_;
  std::optional<x86::Label> over_;  // where functions leave whose budget is used up
  uint32_t features_used_ = 0;

  // of the function being compiled
  std::vector<Reg> saved_;
  bool has_frame_ = false;
  bool has_pad_ = false;  // 8 bytes that keep the stack aligned in a function without frame
  uint32_t frame_bytes_ = 0;
  uint32_t segment_end_ = 0;    // of the segment being compiled
  uint32_t segment_next_ = 0;   // start of the one behind it; kNoSlot: none
  uint16_t zero_extended_ = 0;  // BPF registers whose upper half is known to be zero
};

}  // namespace bpftime

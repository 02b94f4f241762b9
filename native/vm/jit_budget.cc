// SPDX-License-Identifier: MIT
// Budgets in compiled code (budget.h): what a jump backwards or the entry of a function takes off
// the slice, and leaving when there is no more. r12 holds the Budget's address throughout: helpers
// keep it, and programs have no register there. Programs with callbacks are not compiled so,
// because a helper that calls back may use r12 meanwhile.
#include <cstddef>

#include "budget.h"
#include "jit_x86_64.h"

namespace bpftime {

using x86::Alu;
using x86::Mem;
using x86::Reg;

namespace {

constexpr Mem kLeft{x86::kR12, offsetof(Budget, left)};
constexpr Reg kArguments[] = {x86::kRax, x86::kRdi, x86::kRsi, x86::kRdx, x86::kRcx, x86::kR8};

}  // namespace

/// Takes `insns` off; in cold code, asks for more. Scratch registers are lost.
void JitX86::charge(uint32_t insns) {
  const ColdCharge cold{emit_.new_label(), emit_.new_label()};
  emit_.alu_mem_imm(Alu::kSub, kLeft, static_cast<int32_t>(insns), 8);
  emit_.jcc(x86::kL, cold.entry);
  emit_.bind(cold.back);
  cold_charges_.push_back(cold);
}

/// Of the jump at `slot`, if it leads backwards: every way round leads over one that does.
void JitX86::charge_jump(uint32_t slot) {
  if (!options_.is_budgeted) return;
  const uint32_t target = flow_.jump_target(slot);
  if (target <= slot) charge(slot - target + 1);
}

/// After the call of a function of the program: nothing more is done when the budget is used up.
void JitX86::leave_if_over() {
  if (!options_.is_budgeted) return;
  if (!over_) over_ = emit_.new_label();
  emit_.alu_mem_imm(Alu::kCmp, kLeft, 0, 8);
  emit_.jcc(x86::kL, *over_);
}

void JitX86::cold_budget() {
  for (const ColdCharge& cold : cold_charges_) {
    emit_.bind(cold.entry);
    for (const Reg reg : kArguments) emit_.push(reg);
    emit_.mov(x86::kR9, x86::kRsp, true);
    emit_.alu_imm(Alu::kAnd, x86::kRsp, -16, true);
    emit_.push(x86::kR9);
    emit_.push(x86::kR9);
    emit_.mov(x86::kRdi, x86::kR12, true);
    emit_.call_got(got_slot(GotKind::kBudget, 0, 0));
    emit_.pop(x86::kR9);
    emit_.mov(x86::kRsp, x86::kR9, true);
    emit_.test(x86::kRax, x86::kRax, true);
    for (size_t i = std::size(kArguments); i-- > 0;) emit_.pop(kArguments[i]);
    emit_.jcc(x86::kNe, cold.back);
    if (!over_) over_ = emit_.new_label();
    emit_.jmp(*over_);
  }
  cold_charges_.clear();
  if (!over_) return;
  emit_.bind(*over_);
  emit_.zero(x86::kRax);
  epilogue();
  over_.reset();
}

}  // namespace bpftime

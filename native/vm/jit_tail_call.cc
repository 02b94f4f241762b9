// SPDX-License-Identifier: MIT
// Compilation of tail calls (tail_call.h). The count of them lies on the stack, below what a
// program that makes some was called with, and r12 leads there: a register that no program uses for
// anything else, and that helpers and functions give back. A program that is gone on with finds it
// as it was.
#include <linux/bpf.h>

#include <cerrno>
#include <cstddef>

#include "jit_x86_64.h"
#include "tail_call.h"

namespace bpftime {

using x86::Alu;
using x86::Label;
using x86::Mem;

bool JitX86::is_tail_call(uint32_t slot) const {
  if (!options_.tail_calls) return false;
  const CallTarget target = flow_.call_target(slot);
  return target.is_helper && target.value == BPF_FUNC_tail_call;
}

JitX86::TailUse JitX86::tail_use() const {
  TailUse use = TailUse::kNone;
  for (uint32_t i = 0; i < flow_.insns.size() && options_.tail_calls; i = flow_.next(i)) {
    if (flow_.is_reachable[i] == 0 || !flow_.insns[i].is_call() || !is_tail_call(i)) continue;
    if (i >= flow_.subprogs[0].end) return TailUse::kFunctions;
    use = TailUse::kMain;
  }
  return use;
}

/// The program as it is called from outside: with none made yet.
void JitX86::count_tail_calls() {
  constexpr int32_t kCountBytes = 16;  // keeps the stack aligned
  emit_.endbr64();
  emit_.push(x86::kR12);
  emit_.alu_imm(Alu::kSub, x86::kRsp, kCountBytes, true);
  emit_.mov(x86::kR12, x86::kRsp, true);
  emit_.store_imm(Mem{x86::kR12}, 0, 4);
  emit_.call(function_labels_[0]);
  emit_.alu_imm(Alu::kAdd, x86::kRsp, kCountBytes, true);
  emit_.pop(x86::kR12);
  emit_.ret();
}

/// rdi: the context, rsi: this process' view of the program array, edx: the index.
void JitX86::compile_tail_call(uint32_t slot) {
  const Label out = emit_.new_label();
  emit_.alu_mem_reg(Alu::kCmp, Mem{x86::kRsi, offsetof(vm_map, max_entries)}, x86::kRdx, 4, false);
  emit_.jcc(x86::kBe, out);
  emit_.load(x86::kR9, Mem{x86::kRsi, offsetof(vm_map, base)}, 8);
  emit_.mov(x86::kR10, x86::kRdx, false);
  emit_.load(x86::kR9, Mem{x86::kR9, 0, x86::kR10, kTailStride}, 4);
  emit_.alu_imm(Alu::kSub, x86::kR9, 1, false);
  emit_.alu_mem_reg(Alu::kCmp, Mem{x86::kRsi, offsetof(vm_map, cpu_count)}, x86::kR9, 4, false);
  emit_.jcc(x86::kBe, out);
  emit_.load(x86::kR11, Mem{x86::kRsi, sizeof(vm_map), x86::kR9, 8}, 8);
  // Programs that are gone do not count.
  emit_.test(x86::kR11, x86::kR11, true);
  emit_.jcc(x86::kE, out);
  emit_.alu_mem_imm(Alu::kCmp, Mem{x86::kR12}, static_cast<int32_t>(kTailCallsMax), 4);
  emit_.jcc(x86::kAe, out);
  emit_.alu_mem_imm(Alu::kAdd, Mem{x86::kR12}, 1, 4);
  leave_frame();
  emit_.jmp_reg(x86::kR11);
  emit_.bind(out);
  if (is_live_after(slot, 0)) {
    emit_.mov_imm(x86::kRax, static_cast<uint64_t>(int64_t{-ENOENT}));
  }
}

}  // namespace bpftime

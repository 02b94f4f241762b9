// SPDX-License-Identifier: MIT
// Compilation of loads, stores and atomic operations.
#include "jit_x86_64.h"

namespace bpftime {

using namespace isa;
using x86::Alu;
using x86::Label;
using x86::Mem;

namespace {

/// The x86 operation of a BPF one that has a form with a memory destination.
bool memory_alu(uint8_t bpf_op, Alu* op) {
  switch (bpf_op) {
    case kAdd:
      *op = Alu::kAdd;
      return true;
    case kSub:
      *op = Alu::kSub;
      return true;
    case kOr:
      *op = Alu::kOr;
      return true;
    case kAnd:
      *op = Alu::kAnd;
      return true;
    case kXor:
      *op = Alu::kXor;
      return true;
    default:
      return false;
  }
}

}  // namespace

uint32_t JitX86::compile_load(uint32_t slot) {
  const Insn& insn = insn_at(slot);
  const Mem mem{reg(insn.src), insn.off};
  const uint32_t size_bytes = insn.size_bytes();
  if (insn.mode() == kModeMemsx) {
    emit_.load_signed(reg(insn.dst), mem, size_bytes);
    return 1;
  }
  // r = *p; r += x; *p = r with r dead afterwards: one instruction on memory.
  const Insn* change = follower(slot, 1);
  const Insn* store = change != nullptr && change->is_alu() ? follower(slot, 2) : nullptr;
  Alu op{};
  if (store != nullptr && size_bytes >= 4 && insn.dst != insn.src &&
      memory_alu(change->op(), &op) && change->dst == insn.dst &&
      (change->cls() == kAlu64 || size_bytes == 4) &&
      !(change->src_is_reg() && change->src == insn.dst) && store->cls() == kStx &&
      store->mode() == kModeMem && store->size() == insn.size() && store->dst == insn.src &&
      store->off == insn.off && store->src == insn.dst && !is_live_after(slot + 2, insn.dst)) {
    if (change->src_is_reg()) {
      emit_.alu_mem_reg(op, mem, reg(change->src), size_bytes, false);
    } else {
      emit_.alu_mem_imm(op, mem, change->imm, size_bytes);
    }
    return 3;
  }
  emit_.load(reg(insn.dst), mem, size_bytes);
  return 1;
}

void JitX86::compile_store(const Insn& insn) {
  const Mem mem{reg(insn.dst), insn.off};
  if (insn.cls() == kSt) {
    emit_.store_imm(mem, insn.imm, insn.size_bytes());
  } else {
    emit_.store(mem, reg(insn.src), insn.size_bytes());
  }
}

void JitX86::compile_atomic(uint32_t slot) {
  const Insn& insn = insn_at(slot);
  const uint32_t size_bytes = insn.size_bytes();
  const bool wide = size_bytes == 8;
  const Mem mem{reg(insn.dst), insn.off};
  const Reg src = reg(insn.src);
  // On x86 every load acquires and every store releases.
  switch (insn.imm) {
    case kAtomicLoadAcq:
      return emit_.load(reg(insn.dst), Mem{src, insn.off}, size_bytes);
    case kAtomicStoreRel:
      return emit_.store(mem, src, size_bytes);
    case kAtomicXchg:
      return emit_.xchg(mem, src, wide);
    case kAtomicCmpxchg:
      emit_.cmpxchg(mem, src, wide);
      // A 32-bit cmpxchg that succeeds leaves the upper half of rax alone.
      if (!wide) emit_.mov(x86::kRax, x86::kRax, false);
      return;
    case kAdd | kAtomicFetch:
      return emit_.xadd(mem, src, wide);
    case kAdd:
      return emit_.alu_mem_reg(Alu::kAdd, mem, src, size_bytes, true);
    case kOr:
      return emit_.alu_mem_reg(Alu::kOr, mem, src, size_bytes, true);
    case kAnd:
      return emit_.alu_mem_reg(Alu::kAnd, mem, src, size_bytes, true);
    case kXor:
      return emit_.alu_mem_reg(Alu::kXor, mem, src, size_bytes, true);
    default:
      atomic_loop(slot);
  }
}

/// r = imm; lock *p += r, with r dead afterwards: the constant goes into the instruction, and what
/// waits for a locked operation (all that is stored before it, all that is loaded after it) is
/// less.
uint32_t JitX86::fuse_atomic(uint32_t slot) {
  const Insn& insn = insn_at(slot);
  if (insn.op() != kMov || insn.src_is_reg()) return 0;
  const Insn* next = follower(slot, 1);
  Alu op{};
  if (next == nullptr || !next->is_atomic() || next->src != insn.dst || next->dst == insn.dst ||
      (next->imm & ~0xf0) != 0 || !memory_alu(static_cast<uint8_t>(next->imm), &op) ||
      is_live_after(slot + 1, insn.dst)) {
    return 0;
  }
  // The operand of the wide form is sign extended.
  if (next->size() == kDw && insn.cls() == kAlu && insn.imm < 0) return 0;
  emit_.alu_mem_imm(op, Mem{reg(next->dst), next->off}, insn.imm, next->size_bytes(), true);
  return 2;
}

/// Fetching and, or, xor: a compare-and-exchange loop around rax.
void JitX86::atomic_loop(uint32_t slot) {
  const Insn& insn = insn_at(slot);
  const bool wide = insn.size() == kDw;
  const Alu op = (insn.imm & ~kAtomicFetch) == kAnd  ? Alu::kAnd
                 : (insn.imm & ~kAtomicFetch) == kOr ? Alu::kOr
                                                     : Alu::kXor;
  const bool src_is_rax = insn.src == 0;
  const bool base_is_rax = insn.dst == 0;
  const bool restore = !src_is_rax && is_live_after(slot, 0);
  if (src_is_rax || base_is_rax || restore) emit_.mov(x86::kR10, x86::kRax, true);
  const Reg operand = src_is_rax ? x86::kR10 : reg(insn.src);
  const Mem mem{base_is_rax ? x86::kR10 : reg(insn.dst), insn.off};
  const Label again = emit_.new_label();
  emit_.load(x86::kRax, mem, wide ? 8 : 4);
  emit_.bind(again);
  emit_.mov(x86::kR11, operand, wide);
  emit_.alu(op, x86::kR11, x86::kRax, wide);
  emit_.cmpxchg(mem, x86::kR11, wide);
  emit_.jcc(x86::kNe, again);
  if (!wide) emit_.mov(x86::kRax, x86::kRax, false);
  if (!src_is_rax) emit_.mov(reg(insn.src), x86::kRax, true);
  if (restore) emit_.mov(x86::kRax, x86::kR10, true);
}

}  // namespace bpftime

// SPDX-License-Identifier: MIT
#include "go_prologue.h"

#include <Zydis/Zydis.h>

#include <algorithm>

namespace bpftime::rewrite {

namespace {

constexpr size_t kCheckInsnsMax = 10;
constexpr size_t kGrowInsnsMax = 64;
constexpr size_t kTlsInsnsMax = 8;

struct Decoded {
  ZydisDecodedInstruction insn;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

bool decode(const FunctionView& function, const Insn& insn, Decoded* out) {
  static const ZydisDecoder decoder = [] {
    ZydisDecoder d;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return d;
  }();
  return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, function.bytes.data() + insn.off, insn.len,
                                             &out->insn, out->operands));
}

// The block that a failed check goes to: it keeps the arguments, calls the runtime, and begins the
// function again.
bool grows_stack(const FunctionView& function, uint64_t target) {
  if (target < function.addr || target - function.addr >= function.size) return false;
  const Insn* insn = function.at(static_cast<uint32_t>(target - function.addr));
  if (insn == nullptr) return false;
  const Insn* end = function.insns.data() + function.insns.size();
  bool called = false;
  for (size_t i = 0; i < kGrowInsnsMax && insn != end; ++i, ++insn) {
    if (insn->is_call) called = true;
    if (insn->is_branch) return called && insn->branch_target == function.addr;
    if (insn->ends_flow) return false;
  }
  return false;
}

bool is_of_check(const Decoded& one) {
  switch (one.insn.mnemonic) {
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_SUB:
      return one.operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
    case ZYDIS_MNEMONIC_JB:
    case ZYDIS_MNEMONIC_JBE:
    case ZYDIS_MNEMONIC_JZ:
      return true;
    default:
      return false;
  }
}

bool is_safe_memory(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand& op) {
  if (insn.mnemonic == ZYDIS_MNEMONIC_LEA || insn.mnemonic == ZYDIS_MNEMONIC_NOP) return true;
  if (op.mem.segment == ZYDIS_REGISTER_FS) return true;
  return op.mem.index == ZYDIS_REGISTER_NONE &&
         (op.mem.base == ZYDIS_REGISTER_RSP || op.mem.base == ZYDIS_REGISTER_RIP);
}

}  // namespace

uint32_t go_stack_check(const FunctionView& function) {
  uint64_t target = 0;
  for (size_t i = 0; i < function.insns.size() && i < kCheckInsnsMax; ++i) {
    const Insn& insn = function.insns[i];
    Decoded one;
    if (!decode(function, insn, &one) || !is_of_check(one)) return 0;
    if (!insn.is_branch) continue;
    if (target == 0 && !grows_stack(function, insn.branch_target)) return 0;
    if (target != 0 && insn.branch_target != target) return 0;
    target = insn.branch_target;
    if (one.insn.mnemonic == ZYDIS_MNEMONIC_JBE) return insn.off + insn.len;
  }
  return 0;
}

Result<SitePlan> plan_go_site(const FunctionView& function, uint64_t addr) {
  const uint32_t check = addr == function.addr ? go_stack_check(function) : 0;
  if (check < kJumpBytes) return plan_site(function, addr);
  if (check > kWindowBytesMax) return fail(EOPNOTSUPP, "its stack check is longer than known ones");
  if (function.decoded_end < function.size) {
    return fail(EOPNOTSUPP, "part of the function cannot be decoded, so a branch may be hidden");
  }
  const auto inside = std::upper_bound(function.branch_targets.begin(),
                                       function.branch_targets.end(), function.addr);
  if (inside != function.branch_targets.end() && *inside < function.addr + check) {
    return fail(EOPNOTSUPP, "a branch of the function goes into the first bytes");
  }
  SitePlan plan;
  plan.site = addr;
  plan.window = check;
  plan.at_entry = true;
  plan.behind_check = true;
  while (function.insns[plan.count].off < check) ++plan.count;
  return plan;
}

bool may_fault(const FunctionView& function, const SitePlan& plan) {
  for (uint32_t i = 0; i < plan.count; ++i) {
    Decoded one;
    if (!decode(function, function.insns[plan.first + i], &one)) return true;
    for (int o = 0; o < one.insn.operand_count; ++o) {
      const ZydisDecodedOperand& op = one.operands[o];
      if (op.type == ZYDIS_OPERAND_TYPE_MEMORY && !is_safe_memory(one.insn, op)) return true;
    }
  }
  return false;
}

Result<int32_t> go_tls_offset(const FunctionView& morestack, const MemoryReader& read) {
  ZydisRegister held = ZYDIS_REGISTER_NONE;  // the register that holds the offset, if one does
  int64_t value = 0;
  for (size_t i = 0; i < morestack.insns.size() && i < kTlsInsnsMax; ++i) {
    const Insn& insn = morestack.insns[i];
    Decoded one;
    if (!decode(morestack, insn, &one)) break;
    const ZydisDecodedOperand& to = one.operands[0];
    const ZydisDecodedOperand& from = one.operands[1];
    if (one.insn.mnemonic != ZYDIS_MNEMONIC_MOV) continue;
    if (from.type == ZYDIS_OPERAND_TYPE_MEMORY && from.mem.segment == ZYDIS_REGISTER_FS) {
      const bool by_register = held != ZYDIS_REGISTER_NONE && from.mem.base == held;
      if (!by_register && from.mem.base != ZYDIS_REGISTER_NONE) break;
      const int64_t offset = from.mem.disp.value + (by_register ? value : 0);
      if (offset < INT32_MIN || offset > INT32_MAX) break;
      return static_cast<int32_t>(offset);
    }
    if (to.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    if (from.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
      held = to.reg.value;
      value = from.imm.value.s;
    } else if (from.type == ZYDIS_OPERAND_TYPE_MEMORY && from.mem.base == ZYDIS_REGISTER_RIP) {
      const uint64_t at =
          morestack.addr + insn.off + insn.len + static_cast<uint64_t>(from.mem.disp.value);
      if (!read(at, &value, sizeof value)) break;
      held = to.reg.value;
    }
  }
  return fail(EOPNOTSUPP, "where this Go runtime keeps the current goroutine is not known");
}

}  // namespace bpftime::rewrite

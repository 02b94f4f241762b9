// SPDX-License-Identifier: MIT
// Structural validation, first half: each instruction by itself (RFC 9669 section 3 to 5: legal
// opcodes, reserved fields zero, registers, immediates).
#include "flow.h"

namespace bpftime {
namespace {

using namespace isa;

using Reason = const char*;
constexpr Reason kFine = nullptr;

constexpr Reason kUnknownOpcode = "unknown opcode";
constexpr Reason kReservedSrc = "reserved field is not zero: src register";
constexpr Reason kReservedDst = "reserved field is not zero: dst register";
constexpr Reason kReservedOff = "reserved field is not zero: offset";
constexpr Reason kReservedImm = "reserved field is not zero: immediate";
constexpr Reason kWritesFrame = "r10 is the frame pointer and cannot be written";
constexpr Reason kStackBounds = "access is outside the 512 bytes of stack below r10";

Reason check_stack_access(uint8_t base, int32_t off, uint32_t size_bytes) {
  if (base != kFrameReg) return kFine;
  const int64_t end = int64_t{off} + size_bytes;
  return off < -static_cast<int32_t>(kFrameBytes) || end > 0 ? kStackBounds : kFine;
}

Reason check_swap(const Insn& insn) {
  if (insn.opcode == 0xdf) return kUnknownOpcode;
  if (insn.src != 0) return kReservedSrc;
  if (insn.off != 0) return kReservedOff;
  const bool ok = insn.imm == 16 || insn.imm == 32 || insn.imm == 64;
  return ok ? kFine : "byte swap width must be 16, 32 or 64";
}

Reason check_mov(const Insn& insn) {
  if (insn.off == 0) return kFine;
  if (!insn.src_is_reg()) return kReservedOff;
  const bool ok = insn.off == 8 || insn.off == 16 || (insn.off == 32 && insn.cls() == kAlu64);
  return ok ? kFine : "sign-extending move must be from 8, 16 or (64-bit only) 32 bits";
}

Reason check_alu(const Insn& insn) {
  if (insn.dst == kFrameReg) return kWritesFrame;
  const uint8_t op = insn.op();
  if (op > kEnd) return kUnknownOpcode;
  if (op == kEnd) return check_swap(insn);
  if (op == kNeg && insn.src_is_reg()) return kUnknownOpcode;
  if (!insn.src_is_reg() && insn.src != 0) return kReservedSrc;
  if ((insn.src_is_reg() || op == kNeg) && insn.imm != 0) return kReservedImm;
  if (op == kMov) return check_mov(insn);
  if (op == kDiv || op == kMod) {
    if (insn.off != 0 && insn.off != 1) return "division offset must be 0 (unsigned) or 1 (signed)";
    if (!insn.src_is_reg() && insn.imm == 0) return "division by an immediate of zero";
    return kFine;
  }
  return insn.off != 0 ? kReservedOff : kFine;
}

/// The helper's id is checked in flow.cc: loaders leave calls of impossible ids in dead code.
Reason check_call(const Insn& insn) {
  if (insn.dst != 0) return kReservedDst;
  if (insn.off != 0) return kReservedOff;
  if (insn.src == kCallLocal) return kFine;
  if (insn.src == kCallKfunc) return "calls of kernel functions are not supported";
  return insn.src == kCallHelper ? kFine : "unknown kind of call";
}

Reason check_jump(const Insn& insn) {
  const uint8_t op = insn.op();
  if (insn.opcode == kOpCall) return check_call(insn);
  if (insn.opcode == kOpCallx) {
    if (insn.src != 0) return kReservedSrc;
    if (insn.off != 0) return kReservedOff;
    if (insn.imm != 0 && (insn.dst != 0 || insn.imm < 0 || insn.imm > 9)) return kReservedImm;
    return insn.dst == kFrameReg ? "call through the frame pointer" : kFine;
  }
  if (op == kCall) return kUnknownOpcode;
  if (op == kExit || op == kJa) {
    const bool known = insn.is_exit() || insn.is_goto();
    if (!known) return kUnknownOpcode;
    if (insn.dst != 0) return kReservedDst;
    if (insn.src != 0) return kReservedSrc;
    if (insn.off != 0 && insn.opcode != kOpJa) return kReservedOff;
    if (insn.imm != 0 && insn.opcode != kOpJa32) return kReservedImm;
    return kFine;
  }
  if (op == kJcond) return "may_goto is not supported";
  if (op > kJcond) return kUnknownOpcode;
  if (!insn.src_is_reg() && insn.src != 0) return kReservedSrc;
  if (insn.src_is_reg() && insn.imm != 0) return kReservedImm;
  return kFine;
}

Reason check_lddw(const Insn& insn, bool has_second, const Insn& second) {
  if (insn.dst == kFrameReg) return kWritesFrame;
  if (insn.off != 0) return kReservedOff;
  if (!has_second) return "64-bit immediate lacks its second half";
  if (second.opcode != 0 || second.dst != 0 || second.src != 0 || second.off != 0) {
    return "reserved field is not zero: second half of a 64-bit immediate";
  }
  switch (insn.src) {
    case 0:
    case kPseudoMapValue:
    case kPseudoMapIdxValue:
      return kFine;
    case kPseudoMapFd:
    case kPseudoMapIdx:
    case kPseudoFunc:
      return second.imm != 0 ? kReservedImm : kFine;
    case kPseudoVarAddr:
      return "addresses of kernel variables are not supported";
    default:
      return "unknown kind of 64-bit immediate";
  }
}

Reason check_load(const Insn& insn) {
  if (insn.dst == kFrameReg) return kWritesFrame;
  if (insn.mode() != kModeMem && insn.mode() != kModeMemsx) return kUnknownOpcode;
  if (insn.mode() == kModeMemsx && insn.size() == kDw) return kUnknownOpcode;
  if (insn.imm != 0) return kReservedImm;
  return check_stack_access(insn.src, insn.off, insn.size_bytes());
}

Reason check_atomic(const Insn& insn) {
  const bool is_load = insn.imm == kAtomicLoadAcq;
  if (is_load || insn.imm == kAtomicStoreRel) {
    if (is_load && insn.dst == kFrameReg) return kWritesFrame;
    return check_stack_access(is_load ? insn.src : insn.dst, insn.off, insn.size_bytes());
  }
  if (insn.size() != kW && insn.size() != kDw) return "atomic operation must be 32 or 64 bits wide";
  bool known = insn.imm == kAtomicXchg || insn.imm == kAtomicCmpxchg;
  const int32_t base_op = insn.imm & ~kAtomicFetch;
  known |= base_op == kAdd || base_op == kOr || base_op == kAnd || base_op == kXor;
  if (!known) return "unknown atomic operation";
  const bool writes_src = (insn.imm & kAtomicFetch) != 0 && insn.imm != kAtomicCmpxchg;
  if (writes_src && insn.src == kFrameReg) return kWritesFrame;
  return check_stack_access(insn.dst, insn.off, insn.size_bytes());
}

Reason check_store(const Insn& insn) {
  if (insn.is_atomic()) return check_atomic(insn);
  if (insn.mode() != kModeMem) return kUnknownOpcode;
  if (insn.cls() == kSt && insn.src != 0) return kReservedSrc;
  if (insn.cls() == kStx && insn.imm != 0) return kReservedImm;
  return check_stack_access(insn.dst, insn.off, insn.size_bytes());
}

Reason check_ld(const Insn& insn, bool has_second, const Insn& second) {
  if (insn.is_lddw()) return check_lddw(insn, has_second, second);
  const bool legacy = insn.mode() == kModeAbs || insn.mode() == kModeInd;
  if (legacy && insn.size() != kDw) return "legacy packet access (ld_abs, ld_ind) is not supported";
  return kUnknownOpcode;
}

Reason check_insn(const Insn& insn, bool has_second, const Insn& second) {
  if (insn.dst > kFrameReg || insn.src > kFrameReg) return "register number is above 10";
  switch (insn.cls()) {
    case kAlu:
    case kAlu64:
      return check_alu(insn);
    case kJmp:
    case kJmp32:
      return check_jump(insn);
    case kLd:
      return check_ld(insn, has_second, second);
    case kLdx:
      return check_load(insn);
    case kSt:
    case kStx:
      return check_store(insn);
  }
  return kUnknownOpcode;
}

}  // namespace

Verdict validate_insns(std::span<const uint64_t> slots) {
  if (slots.empty()) return Verdict{false, 0, 0, "program has no instruction"};
  if (slots.size() > kInsnCountMax) {
    return Verdict{false, kInsnCountMax, 0, "program has more than 1048576 instructions"};
  }
  for (uint32_t i = 0; i < slots.size(); ++i) {
    const Insn insn = decode(slots[i]);
    const bool has_second = i + 1 < slots.size();
    const Insn second = has_second ? decode(slots[i + 1]) : Insn{};
    const Reason reason = check_insn(insn, has_second, second);
    if (reason != kFine) return Verdict{false, i, insn.opcode, reason};
    if (insn.is_lddw()) ++i;
  }
  return {};
}

Verdict validate(std::span<const uint64_t> slots, const ValidateOptions& options) {
  const Verdict verdict = validate_insns(slots);
  if (!verdict.ok) return verdict;
  Flow flow;
  return build_flow(slots, options, &flow);
}

}  // namespace bpftime

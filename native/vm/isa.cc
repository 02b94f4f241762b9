// SPDX-License-Identifier: MIT
// Text of instructions, and which registers they use.
#include "isa.h"

#include <cstdarg>
#include <cstdio>

namespace bpftime::isa {
namespace {

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char buf[160];
  va_list args;
  va_start(args, pattern);
  vsnprintf(buf, sizeof buf, pattern, args);
  va_end(args);
  return buf;
}

const char* unsigned_type(const Insn& insn) {
  constexpr const char* kNames[] = {"u32", "u16", "u8", "u64"};
  return kNames[insn.size() >> 3];
}

const char* signed_type(const Insn& insn) {
  constexpr const char* kNames[] = {"s32", "s16", "s8", "s64"};
  return kNames[insn.size() >> 3];
}

std::string offset_text(int32_t off) {
  return off < 0 ? format("- %d", -off) : format("+ %d", off);
}

std::string jump_text(int32_t off) { return format("%+d", off); }

const char* alu_symbol(const Insn& insn) {
  const bool is_signed = insn.off == 1;
  switch (insn.op()) {
    case kAdd:
      return "+=";
    case kSub:
      return "-=";
    case kMul:
      return "*=";
    case kDiv:
      return is_signed ? "s/=" : "/=";
    case kOr:
      return "|=";
    case kAnd:
      return "&=";
    case kLsh:
      return "<<=";
    case kRsh:
      return ">>=";
    case kMod:
      return is_signed ? "s%=" : "%=";
    case kXor:
      return "^=";
    case kMov:
      return "=";
    case kArsh:
      return "s>>=";
    default:
      return nullptr;
  }
}

const char* jump_symbol(uint8_t op) {
  switch (op) {
    case kJeq:
      return "==";
    case kJgt:
      return ">";
    case kJge:
      return ">=";
    case kJset:
      return "&";
    case kJne:
      return "!=";
    case kJsgt:
      return "s>";
    case kJsge:
      return "s>=";
    case kJlt:
      return "<";
    case kJle:
      return "<=";
    case kJslt:
      return "s<";
    case kJsle:
      return "s<=";
    default:
      return nullptr;
  }
}

std::string alu_text(const Insn& insn) {
  const char w = insn.cls() == kAlu ? 'w' : 'r';
  if (insn.op() == kNeg) return format("%c%d = -%c%d", w, insn.dst, w, insn.dst);
  if (insn.op() == kEnd) {
    const char* name = insn.opcode == kOpLe ? "le" : insn.opcode == kOpBe ? "be" : "bswap";
    return format("r%d = %s%d r%d", insn.dst, name, insn.imm, insn.dst);
  }
  const char* symbol = alu_symbol(insn);
  if (symbol == nullptr) return "";
  if (!insn.src_is_reg()) return format("%c%d %s %d", w, insn.dst, symbol, insn.imm);
  if (insn.op() == kMov && insn.off != 0) {
    return format("%c%d = (s%d)%c%d", w, insn.dst, insn.off, w, insn.src);
  }
  return format("%c%d %s %c%d", w, insn.dst, symbol, w, insn.src);
}

std::string jump_insn_text(const Insn& insn) {
  if (insn.opcode == kOpJa) return "goto " + jump_text(insn.off);
  if (insn.opcode == kOpJa32) return "gotol " + jump_text(insn.imm);
  if (insn.opcode == kOpExit) return "exit";
  if (insn.opcode == kOpCallx) return format("callx r%d", insn.callx_reg());
  if (insn.opcode == kOpCall) {
    if (insn.src == kCallLocal) return "call pc" + jump_text(insn.imm);
    if (insn.src == kCallHelper) return format("call %d", insn.imm);
    return "";
  }
  const char* symbol = jump_symbol(insn.op());
  if (symbol == nullptr) return "";
  const char w = insn.cls() == kJmp32 ? 'w' : 'r';
  const std::string left = format("if %c%d %s ", w, insn.dst, symbol);
  const std::string right =
      insn.src_is_reg() ? format("%c%d", w, insn.src) : format("%d", insn.imm);
  return left + right + " goto " + jump_text(insn.off);
}

std::string atomic_text(const Insn& insn) {
  const char w = insn.size() == kDw ? 'r' : 'w';
  const char* type = unsigned_type(insn);
  const std::string place = format("(r%d %s)", insn.dst, offset_text(insn.off).c_str());
  switch (insn.imm) {
    case kAtomicXchg:
      return format("%c%d = xchg((%s *)%s, %c%d)", w, insn.src, type, place.c_str(), w, insn.src);
    case kAtomicCmpxchg:
      return format("%c0 = cmpxchg((%s *)%s, %c0, %c%d)", w, type, place.c_str(), w, w, insn.src);
    case kAtomicLoadAcq:
      return format("%c%d = load_acquire((%s *)(r%d %s))", w, insn.dst, type, insn.src,
                    offset_text(insn.off).c_str());
    case kAtomicStoreRel:
      return format("store_release((%s *)%s, %c%d)", type, place.c_str(), w, insn.src);
    default:
      break;
  }
  const char* name = nullptr;
  const char* symbol = nullptr;
  switch (insn.imm & ~kAtomicFetch) {
    case kAdd:
      name = "add", symbol = "+=";
      break;
    case kOr:
      name = "or", symbol = "|=";
      break;
    case kAnd:
      name = "and", symbol = "&=";
      break;
    case kXor:
      name = "xor", symbol = "^=";
      break;
    default:
      return "";
  }
  if ((insn.imm & kAtomicFetch) != 0) {
    return format("%c%d = atomic_fetch_%s((%s *)%s, %c%d)", w, insn.src, name, type, place.c_str(),
                  w, insn.src);
  }
  return format("lock *(%s *)%s %s %c%d", type, place.c_str(), symbol, w, insn.src);
}

std::string memory_text(const Insn& insn) {
  if (insn.cls() == kLdx) {
    if (insn.mode() != kModeMem && insn.mode() != kModeMemsx) return "";
    const char* type = insn.mode() == kModeMemsx ? signed_type(insn) : unsigned_type(insn);
    return format("r%d = *(%s *)(r%d %s)", insn.dst, type, insn.src, offset_text(insn.off).c_str());
  }
  if (insn.is_atomic()) return atomic_text(insn);
  if (insn.mode() != kModeMem) return "";
  const std::string place =
      format("*(%s *)(r%d %s) = ", unsigned_type(insn), insn.dst, offset_text(insn.off).c_str());
  return place + (insn.cls() == kSt ? format("%d", insn.imm) : format("r%d", insn.src));
}

std::string lddw_text(const Insn& insn, const Insn& second, uint32_t index) {
  const auto first_imm = static_cast<uint32_t>(insn.imm);
  const auto second_imm = static_cast<uint32_t>(second.imm);
  switch (insn.src) {
    case 0:
      return format("r%d = 0x%llx ll", insn.dst,
                    static_cast<unsigned long long>(lddw_imm(insn, second)));
    case kPseudoMapFd:
    case kPseudoMapIdx:
      return format("r%d = map(%u) ll", insn.dst, first_imm);
    case kPseudoMapValue:
    case kPseudoMapIdxValue:
      return format("r%d = map_value(%u, %u) ll", insn.dst, first_imm, second_imm);
    case kPseudoFunc:
      return format("r%d = func(%lld) ll", insn.dst, static_cast<long long>(index) + 1 + insn.imm);
    default:
      return "";
  }
}

uint16_t bit(uint8_t reg) { return static_cast<uint16_t>(1u << reg); }

RegUse atomic_use(const Insn& insn) {
  const auto both = static_cast<uint16_t>(bit(insn.dst) | bit(insn.src));
  if (insn.imm == kAtomicLoadAcq) return {bit(insn.src), bit(insn.dst)};
  if (insn.imm == kAtomicStoreRel) return {both, 0};
  if (insn.imm == kAtomicCmpxchg) return {static_cast<uint16_t>(both | 1), 1};
  return {both, (insn.imm & kAtomicFetch) != 0 ? bit(insn.src) : uint16_t{0}};
}

}  // namespace

RegUse reg_use(const Insn& insn) {
  switch (insn.cls()) {
    case kAlu:
    case kAlu64: {
      uint16_t reads = insn.src_is_reg() && insn.op() != kEnd ? bit(insn.src) : uint16_t{0};
      if (insn.op() != kMov) reads |= bit(insn.dst);
      return {reads, bit(insn.dst)};
    }
    case kJmp:
    case kJmp32:
      if (insn.is_goto()) return {0, 0};
      if (insn.is_exit()) return {1, 0};
      if (insn.opcode == kOpCallx) {
        return {static_cast<uint16_t>(0x3e | bit(insn.callx_reg())), 0x3f};
      }
      if (insn.is_call()) return {0x3e, 0x3f};
      return {static_cast<uint16_t>(bit(insn.dst) | (insn.src_is_reg() ? bit(insn.src) : 0)), 0};
    case kLd:
      return {0, bit(insn.dst)};
    case kLdx:
      return {bit(insn.src), bit(insn.dst)};
    case kSt:
      return {bit(insn.dst), 0};
    case kStx:
      if (insn.is_atomic()) return atomic_use(insn);
      return {static_cast<uint16_t>(bit(insn.dst) | bit(insn.src)), 0};
  }
  return {0, 0};
}

std::string disasm(uint64_t slot, uint64_t next, uint32_t index) {
  const Insn insn = decode(slot);
  std::string text;
  if (insn.is_lddw()) {
    text = lddw_text(insn, decode(next), index);
  } else if (insn.is_alu()) {
    text = alu_text(insn);
  } else if (insn.is_jmp()) {
    text = jump_insn_text(insn);
  } else if (insn.cls() != kLd) {
    text = memory_text(insn);
  }
  if (text.empty()) text = format(".raw 0x%016llx", static_cast<unsigned long long>(slot));
  return text;
}

std::string disasm_all(std::span<const uint64_t> slots) {
  std::string out;
  for (uint32_t i = 0; i < slots.size(); ++i) {
    const uint64_t next = i + 1 < slots.size() ? slots[i + 1] : 0;
    out += format("%u: ", i) + disasm(slots[i], next, i) + "\n";
    if (decode(slots[i]).is_lddw()) ++i;
  }
  return out;
}

}  // namespace bpftime::isa

// SPDX-License-Identifier: MIT
#include "frame_state.h"

#include <cstring>

namespace bpftime::unwind {

namespace {

// DWARF 5, table 7.29, and the extensions of GNU.
enum CfaOp : uint8_t {
  kAdvance = 0x40,  // in the two highest bits, as are the next two
  kOffset = 0x80,
  kRestore = 0xc0,
  kNop = 0x00,
  kAdvance1 = 0x02,
  kAdvance2 = 0x03,
  kAdvance4 = 0x04,
  kOffsetExtended = 0x05,
  kRestoreExtended = 0x06,
  kUndefined = 0x07,
  kSameValue = 0x08,
  kRegister = 0x09,
  kRememberState = 0x0a,
  kRestoreState = 0x0b,
  kDefCfa = 0x0c,
  kDefCfaRegister = 0x0d,
  kDefCfaOffset = 0x0e,
  kDefCfaExpression = 0x0f,
  kExpression = 0x10,
  kOffsetExtendedSf = 0x11,
  kDefCfaSf = 0x12,
  kDefCfaOffsetSf = 0x13,
  kValOffset = 0x14,
  kValOffsetSf = 0x15,
  kValExpression = 0x16,
  kGnuArgsSize = 0x2e,
  kGnuNegativeOffset = 0x2f,
};
constexpr uint8_t kHighBits = 0xc0, kLowBits = 0x3f;

enum ExprOp : uint8_t {
  kDeref = 0x06,
  kPlus = 0x22,
  kPlusUconst = 0x23,
  kLit0 = 0x30,
  kBreg0 = 0x70
};
constexpr uint8_t kLastBreg = kBreg0 + 15, kLit31 = kLit0 + 31;

constexpr size_t kRememberedMax = 64;
constexpr size_t kWidesMax = UNWIND_OFFSET_MAX;

int64_t times(uint64_t count, int64_t factor) {
  return static_cast<int64_t>(count * static_cast<uint64_t>(factor));
}

bool fits(int64_t value) { return value >= INT32_MIN && value <= INT32_MAX; }

// What the linker's entries of PLT sections say: one more word is on the stack behind the push.
std::optional<uint32_t> plt_threshold(std::span<const uint8_t> expression) {
  constexpr uint8_t kBefore[] = {0x77, 0x08, 0x80, 0x00, 0x3f, 0x1a};
  constexpr uint8_t kBehind[] = {0x2a, 0x33, 0x24, 0x22};
  constexpr size_t kAt = sizeof kBefore;
  if (expression.size() != kAt + 1 + sizeof kBehind) return std::nullopt;
  if (memcmp(expression.data(), kBefore, sizeof kBefore) != 0) return std::nullopt;
  if (memcmp(&expression[kAt + 1], kBehind, sizeof kBehind) != 0) return std::nullopt;
  const uint8_t literal = expression[kAt];
  if (literal < kLit0 || literal > kLit0 + 15) return std::nullopt;
  return literal - kLit0;
}

// bregN off [deref [plus_uconst n | litN plus]]: a place that a register points near to.
struct Pointed {
  uint8_t reg = 0;
  int32_t off = 0, add = 0;
  bool deref = false;
};
std::optional<Pointed> pointed_by(std::span<const uint8_t> expression) {
  ByteReader in(expression);
  const auto op = in.number<uint8_t>();
  if (op < kBreg0 || op > kLastBreg) return std::nullopt;
  Pointed out;
  out.reg = op - kBreg0;
  const int64_t off = in.sleb();
  if (!in.ok() || !fits(off)) return std::nullopt;
  out.off = static_cast<int32_t>(off);
  if (in.at_end()) return out;
  if (in.number<uint8_t>() != kDeref) return std::nullopt;
  out.deref = true;
  if (in.at_end()) return out;
  const auto last = in.number<uint8_t>();
  uint64_t add = 0;
  if (last == kPlusUconst) {
    add = in.uleb();
  } else if (last >= kLit0 && last <= kLit31 && in.number<uint8_t>() == kPlus) {
    add = last - kLit0;
  } else {
    return std::nullopt;
  }
  if (!in.ok() || !in.at_end() || add > INT32_MAX) return std::nullopt;
  out.add = static_cast<int32_t>(add);
  return out;
}

}  // namespace

std::optional<uint64_t> FrameProgram::advance_of(uint8_t op, ByteReader* in) const {
  if ((op & kHighBits) == kAdvance) return (op & kLowBits) * factors_.code;
  switch (op) {
    case kAdvance1:
      return in->number<uint8_t>() * factors_.code;
    case kAdvance2:
      return in->number<uint16_t>() * factors_.code;
    case kAdvance4:
      return in->number<uint32_t>() * factors_.code;
    default:
      return std::nullopt;
  }
}

RegRule* FrameProgram::rule_of(uint64_t reg) {
  if (reg == kRegBp) return &state_.bp;
  return reg == kRegReturn ? &state_.return_addr : nullptr;
}

bool FrameProgram::define_cfa(uint8_t op, ByteReader* in) {
  if (op == kDefCfaExpression) {
    state_.cfa_expression = in->take(in->uleb());
    state_.cfa_is_expression = true;
    return in->ok();
  }
  const bool has_reg = op == kDefCfa || op == kDefCfaSf || op == kDefCfaRegister;
  if (has_reg) {
    state_.cfa_reg = in->uleb();
    // The offset of an expression is nobody's.
    if (state_.cfa_is_expression && op == kDefCfaRegister) state_.cfa_off = 0;
    state_.cfa_is_expression = false;
  }
  if (op == kDefCfa || op == kDefCfaOffset) state_.cfa_off = static_cast<int64_t>(in->uleb());
  if (op == kDefCfaSf || op == kDefCfaOffsetSf) {
    state_.cfa_off = times(static_cast<uint64_t>(in->sleb()), factors_.data);
  }
  return in->ok();
}

bool FrameProgram::set_register(uint8_t op, ByteReader* in) {
  const bool is_short = (op & kHighBits) != 0;
  RegRule* rule = rule_of(is_short ? op & kLowBits : in->uleb());
  RegRule next;
  next.kind = RegRule::kOther;
  if ((op & kHighBits) == kRestore || op == kRestoreExtended) {
    if (rule != nullptr) *rule = rule == &state_.bp ? initial_.bp : initial_.return_addr;
    return in->ok();
  }
  if ((op & kHighBits) == kOffset || op == kOffsetExtended) {
    next.kind = RegRule::kAtCfa;
    next.off = times(in->uleb(), factors_.data);
  }
  if (is_short) {
    if (rule != nullptr) *rule = next;
    return in->ok();
  }
  switch (op) {
    case kUndefined:
      next.kind = RegRule::kUndefined;
      break;
    case kSameValue:
      next.kind = RegRule::kSame;
      break;
    case kOffsetExtendedSf:
      next.kind = RegRule::kAtCfa;
      next.off = times(static_cast<uint64_t>(in->sleb()), factors_.data);
      break;
    case kGnuNegativeOffset:
      next.kind = RegRule::kAtCfa;
      next.off = -times(in->uleb(), factors_.data);
      break;
    case kExpression:
    case kValExpression:
      next.kind = op == kExpression ? RegRule::kExpression : RegRule::kOther;
      next.expression = in->take(in->uleb());
      break;
    case kRegister:
    case kValOffset:
      in->uleb();
      break;
    case kValOffsetSf:
      in->sleb();
      break;
    default:
      break;
  }
  if (rule != nullptr) *rule = next;
  return in->ok();
}

bool FrameProgram::execute(uint8_t op, ByteReader* in) {
  if ((op & kHighBits) != 0) return set_register(op, in);
  switch (op) {
    case kNop:
      return true;
    case kGnuArgsSize:
      in->uleb();
      return in->ok();
    case kRememberState:
      if (remembered_.size() >= kRememberedMax) return false;
      remembered_.push_back(state_);
      return true;
    case kRestoreState:
      if (remembered_.empty()) return false;
      state_ = remembered_.back();
      remembered_.pop_back();
      return true;
    case kDefCfa:
    case kDefCfaSf:
    case kDefCfaRegister:
    case kDefCfaOffset:
    case kDefCfaOffsetSf:
    case kDefCfaExpression:
      return define_cfa(op, in);
    case kOffsetExtended:
    case kRestoreExtended:
    case kUndefined:
    case kSameValue:
    case kRegister:
    case kExpression:
    case kOffsetExtendedSf:
    case kValOffset:
    case kValOffsetSf:
    case kValExpression:
    case kGnuNegativeOffset:
      return set_register(op, in);
    default:
      return false;
  }
}

uint32_t RuleEncoder::encode_wide(const unwind_wide& wide) {
  // Most are of one kind, and stand behind one another.
  for (size_t back = 1; back <= 16 && back <= wides_->size(); ++back) {
    const size_t index = wides_->size() - back;
    if (memcmp(&(*wides_)[index], &wide, sizeof wide) == 0) {
      return UNWIND_WIDE | static_cast<uint32_t>(index) << 3;
    }
  }
  if (wides_->size() >= kWidesMax) return UNWIND_NONE;
  wides_->push_back(wide);
  return UNWIND_WIDE | static_cast<uint32_t>(wides_->size() - 1) << 3;
}

uint32_t RuleEncoder::encode(const FrameState& state) {
  if (state.return_addr.kind == RegRule::kUndefined) return UNWIND_END;
  if (state.return_addr.kind != RegRule::kAtCfa || state.return_addr.off != -8) return UNWIND_NONE;
  const RegRule& bp = state.bp;
  if (state.cfa_is_expression) {
    const std::optional<uint32_t> threshold = plt_threshold(state.cfa_expression);
    if (threshold) return UNWIND_PLT | *threshold << 3;
  }
  unwind_wide wide{};
  uint32_t slot = 0;
  if (bp.kind == RegRule::kAtCfa) {
    if (!fits(bp.off)) return UNWIND_NONE;
    wide.bp_kind = UNWIND_BP_AT_CFA;
    wide.bp_off = static_cast<s32>(bp.off);
    slot = bp.off < 0 && bp.off % 8 == 0 && -bp.off / 8 <= UNWIND_BP_SLOT_MAX
               ? static_cast<uint32_t>(-bp.off / 8)
               : UINT32_MAX;
  } else if (bp.kind == RegRule::kExpression) {
    const std::optional<Pointed> at = pointed_by(bp.expression);
    if (!at || at->deref) return UNWIND_NONE;
    wide.bp_kind = UNWIND_BP_AT_REG;
    wide.bp_reg = at->reg;
    wide.bp_off = at->off;
    slot = UINT32_MAX;
  } else if (bp.kind == RegRule::kOther) {
    return UNWIND_NONE;
  }
  if (state.cfa_is_expression) {
    const std::optional<Pointed> at = pointed_by(state.cfa_expression);
    if (!at) return UNWIND_NONE;
    wide.cfa_reg = at->reg;
    wide.cfa_off = at->off;
    wide.cfa_deref = at->deref ? 1 : 0;
    wide.cfa_add = at->add;
    return encode_wide(wide);
  }
  if (state.cfa_reg > 15 || !fits(state.cfa_off)) return UNWIND_NONE;
  const bool is_plain = (state.cfa_reg == kRegSp || state.cfa_reg == kRegBp) &&
                        state.cfa_off >= 0 && state.cfa_off % 8 == 0 &&
                        state.cfa_off / 8 <= UNWIND_OFFSET_MAX && slot != UINT32_MAX;
  if (is_plain) {
    return (state.cfa_reg == kRegSp ? UNWIND_SP : UNWIND_BP) |
           static_cast<uint32_t>(state.cfa_off / 8) << 3 | slot << 22;
  }
  wide.cfa_reg = static_cast<u8>(state.cfa_reg);
  wide.cfa_off = static_cast<s32>(state.cfa_off);
  return encode_wide(wide);
}

}  // namespace bpftime::unwind

// SPDX-License-Identifier: MIT
// Compilation of arithmetic, and the fusions that save moves.
#include "jit_x86_64.h"

namespace bpftime {

using namespace isa;
using x86::Alu;
using x86::Label;
using x86::Mem;
using x86::Shift;
using x86::Unary;

namespace {

bool is_wide(const Insn& insn) { return insn.cls() == kAlu64; }
bool is_power_of_two(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

bool is_plain_mov(const Insn& insn) {
  return insn.is_alu() && insn.op() == kMov && insn.src_is_reg() && insn.off == 0;
}

bool is_imm_op(const Insn* insn, uint8_t op, bool wide) {
  return insn != nullptr && insn->is_alu() && insn->op() == op && !insn->src_is_reg() &&
         is_wide(*insn) == wide;
}

Alu alu_op(uint8_t op) {
  switch (op) {
    case kAdd:
      return Alu::kAdd;
    case kSub:
      return Alu::kSub;
    case kOr:
      return Alu::kOr;
    case kAnd:
      return Alu::kAnd;
    default:
      return Alu::kXor;
  }
}

Shift shift_op(uint8_t op) {
  return op == kLsh ? Shift::kShl : op == kRsh ? Shift::kShr : Shift::kSar;
}

/// Multiplier and shift that divide any 32-bit number by `divisor` (Granlund and Montgomery 1994):
/// quotient = number * multiplier >> 32 + shift. False if the multiplier needs more than 32 bits.
bool reciprocal(uint32_t divisor, uint32_t* multiplier, uint8_t* shift) {
  for (uint8_t s = 0; s < 32; ++s) {
    const unsigned __int128 power = static_cast<unsigned __int128>(1) << (32 + s);
    const auto candidate = static_cast<uint64_t>(power / divisor) + 1;
    const auto excess =
        static_cast<uint64_t>(static_cast<unsigned __int128>(candidate) * divisor - power);
    if (excess > uint64_t{1} << s) continue;
    *multiplier = static_cast<uint32_t>(candidate);
    *shift = s;
    return candidate <= UINT32_MAX;
  }
  return false;
}

}  // namespace

uint32_t JitX86::compile_alu(uint32_t slot) {
  uint32_t fused = fuse_extension(slot);
  if (fused == 0) fused = fuse_rotate(slot);
  if (fused == 0) fused = fuse_boolean(slot);
  if (fused == 0) fused = fuse_remainder(slot);
  if (fused == 0) fused = fuse_mov(slot);
  if (fused != 0) return fused;
  const Insn& insn = insn_at(slot);
  switch (insn.op()) {
    case kMov:
      compile_mov(insn);
      break;
    case kAdd:
    case kSub:
      compile_add_sub(insn);
      break;
    case kOr:
    case kAnd:
    case kXor:
      compile_logic(insn);
      break;
    case kMul:
      compile_mul(insn);
      break;
    case kLsh:
    case kRsh:
    case kArsh:
      compile_shift(slot);
      break;
    case kNeg:
      emit_.unary(Unary::kNeg, reg(insn.dst), is_wide(insn));
      break;
    case kEnd:
      compile_swap(insn);
      break;
    default:
      compile_div(insn, slot);
  }
  return 1;
}

/// [mov A, B;] A <<= n; A >>= n for n = 32, 48, 56: an extension in one instruction.
uint32_t JitX86::fuse_extension(uint32_t slot) {
  const Insn& first = insn_at(slot);
  const bool has_mov = is_plain_mov(first) && is_wide(first);
  const uint32_t at = has_mov ? 1 : 0;
  const Insn* left = has_mov ? follower(slot, 1) : &first;
  if (!is_imm_op(left, kLsh, true) || left->dst != first.dst) return 0;
  if (left->imm != 32 && left->imm != 48 && left->imm != 56) return 0;
  const Insn* right = follower(slot, at + 1);
  const bool is_signed = is_imm_op(right, kArsh, true);
  if (!is_signed && !is_imm_op(right, kRsh, true)) return 0;
  if (right->dst != first.dst || right->imm != left->imm) return 0;
  const uint8_t source = has_mov ? first.src : first.dst;
  const auto bytes = static_cast<uint32_t>(64 - left->imm) / 8;
  if (is_signed) {
    emit_.movsx(reg(first.dst), reg(source), bytes, true);
  } else if (bytes != 4 || source != first.dst || (zero_extended_ >> source & 1) == 0) {
    emit_.movzx(reg(first.dst), reg(source), bytes);
  }
  return at + 2;
}

/// T = S; T <<= n; [U = S;] S >>= width - n; S |= T, in either order and direction: a rotation, if
/// nobody needs the other half afterwards.
uint32_t JitX86::fuse_rotate(uint32_t slot) {
  const Insn& mov = insn_at(slot);
  if (!is_plain_mov(mov) || mov.dst == mov.src) return 0;
  const Insn* first = follower(slot, 1);
  if (first == nullptr || !first->is_alu() || first->src_is_reg() || first->dst != mov.dst)
    return 0;
  const bool wide = is_wide(*first);
  if (wide && !is_wide(mov)) return 0;
  if (first->op() != kLsh && first->op() != kRsh) return 0;
  uint32_t at = 2;
  uint8_t other = mov.src;
  const Insn* next = follower(slot, at);
  if (next != nullptr && is_plain_mov(*next) && next->src == mov.src && next->dst != mov.dst &&
      (is_wide(*next) || !wide)) {
    other = next->dst;
    next = follower(slot, ++at);
  }
  const uint8_t opposite = first->op() == kLsh ? kRsh : kLsh;
  if (!is_imm_op(next, opposite, wide) || next->dst != other) return 0;
  const int32_t width = wide ? 64 : 32;
  if (first->imm <= 0 || first->imm >= width || first->imm + next->imm != width) return 0;
  const Insn* join = follower(slot, ++at);
  if (join == nullptr || !join->is_alu() || !join->src_is_reg() || is_wide(*join) != wide) return 0;
  if (join->op() != kOr && join->op() != kAdd && join->op() != kXor) return 0;
  const bool into_first = join->dst == mov.dst && join->src == other;
  if (!into_first && !(join->dst == other && join->src == mov.dst)) return 0;
  if (is_live_after(slot + at, join->src)) return 0;
  const auto left = static_cast<uint8_t>(first->op() == kLsh ? first->imm : next->imm);
  const Reg dst = reg(join->dst);
  const Reg src = reg(mov.src);
  if (dst != src && (options_.cpu_features & kCpuBmi2) != 0) {
    features_used_ |= kCpuBmi2;
    emit_.rorx(dst, src, static_cast<uint8_t>(width - left), wide);
  } else {
    if (dst != src) emit_.mov(dst, src, wide);
    emit_.shift_imm(Shift::kRol, dst, left, wide);
  }
  return at + 1;
}

/// A = B; A /= C; A *= C; [D = B;] D -= A, with A dead afterwards: a remainder, as compilers write
/// it that have none (for C = 0 it is B in both forms). Without the mov, D is B.
uint32_t JitX86::fuse_remainder(uint32_t slot) {
  const Insn& mov = insn_at(slot);
  const Insn* div = follower(slot, 1);
  const Insn* mul = follower(slot, 2);
  const Insn* last = follower(slot, 3);
  if (!is_plain_mov(mov) || div == nullptr || mul == nullptr || last == nullptr) return 0;
  const bool wide = is_wide(*div);
  const auto has_shape = [&](const Insn& insn, uint8_t op, uint8_t dst) {
    return insn.is_alu() && insn.op() == op && insn.dst == dst && is_wide(insn) == wide;
  };
  if ((wide && !is_wide(mov)) || mov.dst == mov.src || !has_shape(*div, kDiv, mov.dst) ||
      !has_shape(*mul, kMul, mov.dst) || mul->src_is_reg() != div->src_is_reg() ||
      mul->src != div->src || mul->imm != div->imm || div->src == mov.dst) {
    return 0;
  }
  uint32_t at = 3;
  uint8_t result = mov.src;
  if (is_plain_mov(*last) && last->src == mov.src && (is_wide(*last) || !wide)) {
    result = last->dst;
    last = follower(slot, ++at);
    if (last == nullptr || result == mov.dst) return 0;
    if (div->src_is_reg() && result == div->src && result != mov.src) return 0;
  }
  if (!has_shape(*last, kSub, result) || !last->src_is_reg() || last->src != mov.dst ||
      is_live_after(slot + at, mov.dst)) {
    return 0;
  }
  if (result != mov.src) emit_.mov(reg(result), reg(mov.src), wide);
  Insn mod = *div;
  mod.opcode = static_cast<uint8_t>((div->opcode & 0x0f) | kMod);
  mod.dst = result;
  compile_div(mod, slot + at);
  return at + 1;
}

/// mov A, B followed by an operation on A that x86 can write to another register.
uint32_t JitX86::fuse_mov(uint32_t slot) {
  const Insn& mov = insn_at(slot);
  if (!is_plain_mov(mov) || mov.dst == mov.src) return 0;
  const Insn* next = follower(slot, 1);
  if (next == nullptr || !next->is_alu() || next->dst != mov.dst) return 0;
  const bool wide = is_wide(*next);
  if (wide && !is_wide(mov)) return 0;
  const Reg dst = reg(mov.dst);
  const Reg src = reg(mov.src);
  const int32_t imm = next->imm;
  const bool is_imm = !next->src_is_reg();
  switch (next->op()) {
    case kAdd:
      if (is_imm) return fuse_address(slot, Mem{src, imm}, wide);
      return fuse_address(slot, Mem{src, 0, next->src == mov.dst ? src : reg(next->src), 1}, wide);
    case kSub:
      if (!is_imm || imm == INT32_MIN) return 0;
      return fuse_address(slot, Mem{src, -imm}, wide);
    case kMul:
      if (!is_imm || imm == 0 || is_power_of_two(static_cast<uint32_t>(imm))) return 0;
      emit_.imul_imm(dst, src, imm, wide);
      return 2;
    case kAnd:
      if (!is_imm || (imm != 0xff && imm != 0xffff)) return 0;
      emit_.movzx(dst, src, imm == 0xff ? 1 : 2);
      return 2;
    case kLsh:
    case kRsh:
    case kArsh:
      if (is_imm || next->src == mov.dst || (options_.cpu_features & kCpuBmi2) == 0) return 0;
      features_used_ |= kCpuBmi2;
      emit_.shift_bmi2(shift_op(next->op()), dst, src, reg(next->src), wide);
      return 2;
    default:
      return 0;
  }
}

/// mov A, B; A += x is an lea; with a load through A that nobody needs afterwards, just the load.
uint32_t JitX86::fuse_address(uint32_t slot, Mem mem, bool wide) {
  const uint8_t pointer = insn_at(slot).dst;
  const Insn* load = follower(slot, 2);
  if (wide && load != nullptr && load->cls() == kLdx && load->src == pointer &&
      (load->dst == pointer || !is_live_after(slot + 2, pointer))) {
    const int64_t disp = int64_t{mem.disp} + load->off;
    if (disp == static_cast<int32_t>(disp)) {
      mem.disp = static_cast<int32_t>(disp);
      if (load->mode() == kModeMemsx) {
        emit_.load_signed(reg(load->dst), mem, load->size_bytes());
      } else {
        emit_.load(reg(load->dst), mem, load->size_bytes());
      }
      return 3;
    }
  }
  emit_.lea(reg(pointer), mem, wide);
  return 2;
}

/// A = 1; if c goto over; A = 0; over: (or with 0 and 1 exchanged) is a setcc.
uint32_t JitX86::fuse_boolean(uint32_t slot) {
  const Insn& first = insn_at(slot);
  if (!is_imm_op(&first, kMov, is_wide(first)) || (first.imm & ~1) != 0) return 0;
  const Insn* branch = follower(slot, 1);
  if (branch == nullptr || !branch->is_branch() || flow_.decided[slot + 1] != Flow::kOpen) return 0;
  const uint32_t over = flow_.jump_target(slot + 1);
  const Insn* second = follower(slot, 2);
  if (over != slot + 3 || second == nullptr || second->dst != first.dst) return 0;
  if (!is_imm_op(second, kMov, is_wide(*second)) || second->imm != (first.imm ^ 1)) return 0;
  const bool compares_it =
      branch->dst == first.dst || (branch->src_is_reg() && branch->src == first.dst);
  if (compares_it) return 0;
  const Reg dst = reg(first.dst);
  emit_.zero(dst);
  const x86::Cond cond = compare(*branch);
  emit_.setcc(first.imm == 1 ? cond : x86::negate(cond), dst);
  return 3;
}

void JitX86::compile_mov(const Insn& insn) {
  const Reg dst = reg(insn.dst);
  const bool wide = is_wide(insn);
  if (!insn.src_is_reg()) {
    return emit_.mov_imm(dst, wide ? static_cast<uint64_t>(int64_t{insn.imm})
                                   : uint64_t{static_cast<uint32_t>(insn.imm)});
  }
  const Reg src = reg(insn.src);
  if (insn.off != 0) return emit_.movsx(dst, src, static_cast<uint32_t>(insn.off) / 8, wide);
  const bool is_noop = dst == src && (wide || (zero_extended_ >> insn.dst & 1) != 0);
  if (!is_noop) emit_.mov(dst, src, wide);
}

void JitX86::compile_add_sub(const Insn& insn) {
  const Reg dst = reg(insn.dst);
  const bool wide = is_wide(insn);
  const Alu op = alu_op(insn.op());
  if (insn.src_is_reg()) return emit_.alu(op, dst, reg(insn.src), wide);
  if (insn.imm == 0 && wide) return;
  if (insn.imm == 128) {  // the negative fits into one byte
    return emit_.alu_imm(op == Alu::kAdd ? Alu::kSub : Alu::kAdd, dst, -128, wide);
  }
  emit_.alu_imm(op, dst, insn.imm, wide);
}

void JitX86::compile_logic(const Insn& insn) {
  const Reg dst = reg(insn.dst);
  const bool wide = is_wide(insn);
  const Alu op = alu_op(insn.op());
  if (insn.src_is_reg()) return emit_.alu(op, dst, reg(insn.src), wide);
  if (op == Alu::kAnd) {
    if (insn.imm == 0xff || insn.imm == 0xffff) {
      return emit_.movzx(dst, dst, insn.imm == 0xff ? 1 : 2);
    }
    if (insn.imm == -1 && wide) return;
    return emit_.alu_imm(op, dst, insn.imm, wide && insn.imm < 0);
  }
  if (insn.imm == 0 && wide) return;
  if (op == Alu::kXor && insn.imm == -1) return emit_.unary(Unary::kNot, dst, wide);
  emit_.alu_imm(op, dst, insn.imm, wide);
}

void JitX86::compile_mul(const Insn& insn) {
  const Reg dst = reg(insn.dst);
  const bool wide = is_wide(insn);
  if (insn.src_is_reg()) return emit_.imul(dst, reg(insn.src), wide);
  if (insn.imm == 0) return emit_.zero(dst);
  if (insn.imm > 1 && is_power_of_two(static_cast<uint32_t>(insn.imm))) {
    const auto count = static_cast<uint8_t>(__builtin_ctz(static_cast<uint32_t>(insn.imm)));
    return emit_.shift_imm(Shift::kShl, dst, count, wide);
  }
  emit_.imul_imm(dst, dst, insn.imm, wide);
}

void JitX86::compile_shift(uint32_t slot) {
  const Insn& insn = insn_at(slot);
  const bool wide = is_wide(insn);
  if (insn.src_is_reg()) return shift_by_reg(slot, shift_op(insn.op()));
  const auto count = static_cast<uint8_t>(insn.imm & (wide ? 63 : 31));
  const Reg dst = reg(insn.dst);
  if (count != 0) return emit_.shift_imm(shift_op(insn.op()), dst, count, wide);
  if (!wide) emit_.mov(dst, dst, false);
}

void JitX86::shift_by_reg(uint32_t slot, Shift op) {
  const Insn& insn = insn_at(slot);
  const bool wide = is_wide(insn);
  const Reg dst = reg(insn.dst);
  const Reg count = reg(insn.src);
  if ((options_.cpu_features & kCpuBmi2) != 0) {
    features_used_ |= kCpuBmi2;
    return emit_.shift_bmi2(op, dst, dst, count, wide);
  }
  if (dst == x86::kRcx) {
    emit_.mov(x86::kR11, x86::kRcx, true);
    if (count != x86::kRcx) emit_.mov(x86::kRcx, count, false);
    emit_.shift_cl(op, x86::kR11, wide);
    return emit_.mov(x86::kRcx, x86::kR11, wide);
  }
  if (count == x86::kRcx) return emit_.shift_cl(op, dst, wide);
  const bool save = is_live_after(slot, 4);  // r4 is rcx
  if (save) emit_.mov(x86::kR11, x86::kRcx, true);
  emit_.mov(x86::kRcx, count, false);
  emit_.shift_cl(op, dst, wide);
  if (save) emit_.mov(x86::kRcx, x86::kR11, true);
}

void JitX86::compile_swap(const Insn& insn) {
  const Reg dst = reg(insn.dst);
  if (insn.opcode == kOpLe) {
    if (insn.imm == 16) emit_.movzx(dst, dst, 2);
    if (insn.imm == 32) emit_.mov(dst, dst, false);
    return;
  }
  if (insn.imm != 16) return emit_.bswap(dst, insn.imm == 64);
  emit_.rol16_8(dst);
  emit_.movzx(dst, dst, 2);
}

/// A division or remainder, after which the registers are live that are after `slot`.
void JitX86::compile_div(const Insn& insn, uint32_t slot) {
  if (!insn.src_is_reg()) {
    if (divide_by_constant(insn)) return;
    const auto value = is_wide(insn) ? static_cast<uint64_t>(int64_t{insn.imm})
                                     : uint64_t{static_cast<uint32_t>(insn.imm)};
    emit_.mov_imm(x86::kR11, value);
    return divide_general(insn, slot, x86::kR11, true);
  }
  Reg divisor = reg(insn.src);
  if (divisor == x86::kRax || divisor == x86::kRdx) {
    emit_.mov(x86::kR11, divisor, true);
    divisor = x86::kR11;
  }
  divide_general(insn, slot, divisor, false);
}

/// Divisions by a constant that need no division; false if there is no such form.
bool JitX86::divide_by_constant(const Insn& insn) {
  const Reg dst = reg(insn.dst);
  const bool wide = is_wide(insn);
  const bool is_mod = insn.op() == kMod;
  const bool is_signed = insn.off == 1;
  if (insn.imm == 1 || (insn.imm == -1 && is_signed)) {
    if (is_mod) {
      emit_.zero(dst);
    } else if (insn.imm == -1) {
      emit_.unary(Unary::kNeg, dst, wide);
    } else if (!wide) {
      emit_.mov(dst, dst, false);
    }
    return true;
  }
  if (is_signed) return false;
  const auto low = static_cast<uint32_t>(insn.imm);
  if (is_power_of_two(low) && (insn.imm > 0 || !wide)) {
    if (is_mod) {
      emit_.alu_imm(Alu::kAnd, dst, static_cast<int32_t>(low - 1), false);
    } else {
      emit_.shift_imm(Shift::kShr, dst, static_cast<uint8_t>(__builtin_ctz(low)), wide);
    }
    return true;
  }
  uint32_t multiplier = 0;
  uint8_t shift = 0;
  if (wide || !reciprocal(low, &multiplier, &shift)) return false;
  emit_.mov_imm(x86::kR11, multiplier);
  emit_.mov(x86::kR10, dst, false);
  emit_.imul(x86::kR11, x86::kR10, true);
  emit_.shift_imm(Shift::kShr, x86::kR11, static_cast<uint8_t>(32 + shift), true);
  if (!is_mod) {
    emit_.mov(dst, x86::kR11, false);
    return true;
  }
  emit_.imul_imm(x86::kR11, x86::kR11, insn.imm, false);
  emit_.alu(Alu::kSub, dst, x86::kR11, false);
  return true;
}

/// div or idiv. `divisor` is neither rax nor rdx. Results for divisors 0 and -1 (which idiv cannot
/// do for the smallest number) are made in cold code.
void JitX86::divide_general(const Insn& insn, uint32_t slot, Reg divisor, bool is_known_nonzero) {
  const Reg dst = reg(insn.dst);
  const bool wide = is_wide(insn);
  const bool is_mod = insn.op() == kMod;
  const bool is_signed = insn.off == 1;
  const Label back = emit_.new_label();
  if (!is_known_nonzero) {
    const Label by_zero = emit_.new_label();
    emit_.test(divisor, divisor, wide);
    emit_.jcc(x86::kE, by_zero);
    cold_.push_back({by_zero, back, dst, is_mod, wide, false});
    if (is_signed) {
      const Label by_minus_one = emit_.new_label();
      emit_.alu_imm(Alu::kCmp, divisor, -1, wide);
      emit_.jcc(x86::kE, by_minus_one);
      cold_.push_back({by_minus_one, back, dst, is_mod, wide, true});
    }
  }
  const bool save_rax = dst != x86::kRax && is_live_after(slot, 0);
  const bool save_rdx = dst != x86::kRdx && is_live_after(slot, 3);
  if (save_rax) emit_.mov(x86::kR10, x86::kRax, true);
  if (save_rdx) emit_.mov(x86::kR9, x86::kRdx, true);
  if (dst != x86::kRax) emit_.mov(x86::kRax, dst, wide);
  if (is_signed) {
    emit_.sign_extend_rax(wide);
  } else {
    emit_.zero(x86::kRdx);
  }
  emit_.unary(is_signed ? Unary::kIdiv : Unary::kDiv, divisor, wide);
  const Reg result = is_mod ? x86::kRdx : x86::kRax;
  if (dst != result) emit_.mov(dst, result, wide);
  if (save_rdx) emit_.mov(x86::kRdx, x86::kR9, true);
  if (save_rax) emit_.mov(x86::kRax, x86::kR10, true);
  emit_.bind(back);
}

}  // namespace bpftime

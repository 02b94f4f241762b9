// SPDX-License-Identifier: MIT
// Branches: which ways are possible, and what is learnt on each.
#include "explorer.h"

namespace bpftime::verify {

using namespace isa;

namespace {

constexpr int64_t kPacketBytesMax = 0xffff;

Scalar operand(const Insn& insn) {
  return Scalar::constant(insn.cls() == kJmp ? static_cast<uint64_t>(int64_t{insn.imm})
                                             : uint64_t{static_cast<uint32_t>(insn.imm)});
}

void learn_too_much(Scalar* num) {
  if (num->wide.umax > num->wide.umin) --num->wide.umax;
  num->normalise();
}

bool compares_equal(const Insn& insn) { return insn.op() == kJeq || insn.op() == kJne; }

/// A pointer that surely is not null: it is inside of what it points at.
bool is_surely_set(const Reg& reg) {
  if (!reg.is_pointer() || reg.maybe_null) return false;
  switch (reg.kind) {
    case Kind::kStack:
      return reg.num.wide.smin >= -512 && reg.num.wide.smax <= 0;
    case Kind::kMapValue:
    case Kind::kRecord:
    case Kind::kKey:
      return reg.num.wide.smin >= 0 && reg.num.wide.smax <= int64_t{reg.bytes};
    case Kind::kCtx:
    case Kind::kMap:
    case Kind::kFunction:
    case Kind::kTask:
      return reg.num.is_const() && reg.num.const_value() < 4096;
    default:
      return false;
  }
}

}  // namespace

void Explorer::note_branch(State* state, bool taken) {
  trail_.push_back({state->trail, now_.slot, taken});
  state->trail = static_cast<uint32_t>(trail_.size()) - 1;
}

/// Walks on behind the branch, and keeps `taken` for later.
bool Explorer::fork(State taken) {
  note_branch(&taken, true);
  taken.slot = flow_.jump_target(now_.slot);
  if (!push(std::move(taken))) return false;
  note_branch(&now_, false);
  return true;
}

Explorer::Step Explorer::step_branch(const Insn& insn) {
  if (!need_set(insn.dst) || (insn.src_is_reg() && !need_set(insn.src))) return Step::kRefused;
  const Reg& a = now_.reg(insn.dst);
  const Reg b = insn.src_is_reg() ? now_.reg(insn.src) : Reg::number(operand(insn));
  if (a.is_number() && b.is_number()) return branch_on_numbers(insn);
  const bool wide = insn.cls() == kJmp;
  if (wide && compares_equal(insn) && b.is_const(0)) {
    if (a.maybe_null) return branch_on_null(insn);
    if (is_surely_set(a)) {
      mark_exact(b.origins);
      const bool taken = insn.op() == kJne;
      note_branch(&now_, taken);
      if (taken) next_ = flow_.jump_target(now_.slot);
      return Step::kGo;
    }
  }
  State taken = now_;
  if (wide) {
    learn_packet(&taken, insn, true);
    learn_packet(&now_, insn, false);
  }
  return fork(std::move(taken)) ? Step::kGo : Step::kRefused;
}

Explorer::Step Explorer::branch_on_numbers(const Insn& insn) {
  const Reg a = now_.reg(insn.dst);
  const Reg b = insn.src_is_reg() ? now_.reg(insn.src) : Reg::number(operand(insn));
  const bool wide = insn.cls() == kJmp;
  const Compare compare = compare_of(insn.op());
  Scalar taken_a = a.num;
  Scalar taken_b = b.num;
  Scalar other_a = a.num;
  Scalar other_b = b.num;
  bool may_take = assume(compare, wide, &taken_a, &taken_b);
  bool may_pass = assume(complement(compare), wide, &other_a, &other_b);
  if (insn.src_is_reg() && (insn.src == insn.dst || (a.id != 0 && a.id == b.id))) {
    // A number compared with itself.
    const bool holds = compare == Compare::kEq || compare == Compare::kLe ||
                       compare == Compare::kGe || compare == Compare::kSle ||
                       compare == Compare::kSge;
    const bool is_bits = compare == Compare::kSet;
    if (!is_bits) {
      may_take = holds;
      may_pass = !holds;
    }
  }
  Origins origins = a.origins;
  origins.add(b.origins);
  if (may_take != may_pass) {
    mark_exact(origins);  // that it is decided depends on both
    note_branch(&now_, may_take);
    if (may_take) next_ = flow_.jump_target(now_.slot);
    return Step::kGo;
  }
  State taken = now_;
  learn(&taken, insn.dst, taken_a, origins);
  learn(&now_, insn.dst, other_a, origins);
  if (insn.src_is_reg() && insn.src != insn.dst) {
    learn(&taken, insn.src, taken_b, origins);
    learn(&now_, insn.src, other_b, origins);
  }
  return fork(std::move(taken)) ? Step::kGo : Step::kRefused;
}

/// The number in `regno`, and every copy of it, is known to be `num` now; so is the lower half of
/// those that share that with it.
void Explorer::learn(State* state, uint8_t regno, const Scalar& num, const Origins& origins) {
  const uint32_t id = state->reg(regno).id;
  const uint32_t low_id = state->reg(regno).low_id;
  const auto set = [&](Reg& reg) {
    reg.num = num;
    if (is_weak(kLearnTooMuch)) learn_too_much(&reg.num);
    reg.origins.add(origins);
  };
  set(state->reg(regno));
  if (id == 0 && low_id == 0) return;
  state->each_reg([&](Reg& reg) {
    if (!reg.is_number()) return;
    if (id != 0 && reg.id == id) return set(reg);
    if (low_id == 0 || reg.low_id != low_id) return;
    Scalar both = reg.num;
    if (!both.low.intersect(num.low) || !both.normalise()) return;
    reg.num = both;
    reg.origins.add(origins);
  });
}

Explorer::Step Explorer::branch_on_null(const Insn& insn) {
  const uint32_t id = now_.reg(insn.dst).id;
  const bool null_is_taken = insn.op() == kJeq;
  State taken = now_;
  resolve_null(&taken, id, null_is_taken);
  resolve_null(&now_, id, !null_is_taken);
  return fork(std::move(taken)) ? Step::kGo : Step::kRefused;
}

void Explorer::resolve_null(State* state, uint32_t id, bool is_null) {
  uint32_t ref = 0;
  state->each_reg([&](Reg& reg) {
    if (!reg.maybe_null || reg.id != id) return;
    ref = reg.ref;
    if (is_null) {
      reg = Reg::number(Scalar::constant(0));
      return;
    }
    reg.maybe_null = false;
    reg.id = 0;
  });
  if (!is_null || ref == 0) return;
  std::erase_if(state->held, [ref](const Held& held) { return held.ref == ref; });
}

/// `data + n <= data_end` makes n bytes readable; any way of writing it.
void Explorer::learn_packet(State* state, const Insn& insn, bool taken) {
  if (!insn.src_is_reg()) return;
  Reg a = state->reg(insn.dst);
  Reg b = state->reg(insn.src);
  Compare compare = compare_of(insn.op());
  if (!taken) compare = complement(compare);
  if (a.kind == Kind::kPacketEnd && b.kind == Kind::kPacket) {
    std::swap(a, b);
    constexpr Compare kMirrored[] = {Compare::kEq, Compare::kNe, Compare::kGt,
                                     Compare::kGe, Compare::kLt, Compare::kLe};
    if (static_cast<size_t>(compare) >= std::size(kMirrored)) return;
    compare = kMirrored[static_cast<size_t>(compare)];
  }
  if (a.kind != Kind::kPacket || b.kind != Kind::kPacketEnd) return;
  if (compare != Compare::kLe && compare != Compare::kLt) return;
  // The pointer must itself be a sane distance from the beginning for the sum not to wrap.
  const int64_t least = a.num.wide.smin;
  if (least < 0 || a.num.wide.smax > kPacketBytesMax) return;
  state->each_reg([&](Reg& reg) {
    if (reg.kind != Kind::kPacket || reg.id != a.id) return;
    const auto bytes = static_cast<uint32_t>(least + (compare == Compare::kLt ? 1 : 0));
    if (reg.bytes < bytes) reg.bytes = bytes;
  });
}

}  // namespace bpftime::verify

// SPDX-License-Identifier: MIT
// The compiler's frame: functions, control flow, GOT. See jit_x86_64.h.
#include "jit_x86_64.h"

#include <cpuid.h>

namespace bpftime {

using namespace isa;
using x86::Alu;
using x86::Cond;
using x86::Label;
using x86::Mem;

namespace {

constexpr Label kNoLabel = UINT32_MAX;
constexpr uint32_t kNoSlot = UINT32_MAX;
constexpr uint16_t kCalleeSaved = 0x3c0;  // r6-r9
constexpr uint32_t kRedZoneBytes = 128;   // below rsp, left alone by signals (psABI 3.2.2)

/// BPF registers whose upper half is zero after `insn`, given those before it.
uint16_t zero_extended_after(const Insn& insn, uint16_t before) {
  const RegUse use = reg_use(insn);
  auto after = static_cast<uint16_t>(before & ~use.writes);
  bool is_zero = false;
  if (insn.cls() == kAlu) {
    is_zero = insn.op() != kEnd || insn.imm != 64;
  } else if (insn.cls() == kAlu64) {
    const bool is_imm = !insn.src_is_reg();
    if (insn.op() == kMov && is_imm) is_zero = insn.imm >= 0;
    if (insn.op() == kMov && !is_imm && insn.off == 0) is_zero = (before >> insn.src & 1) != 0;
    if (insn.op() == kAnd && is_imm) is_zero = insn.imm >= 0;
    if (insn.op() == kRsh && is_imm) is_zero = (insn.imm & 63) >= 32;
    if (insn.op() == kEnd) is_zero = insn.imm != 64;
  } else if (insn.cls() == kLdx) {
    is_zero = insn.mode() == kModeMem && insn.size() != kDw;
  } else if (insn.is_atomic()) {
    is_zero = insn.size() != kDw;
  }
  if (is_zero) after |= use.writes;
  return after;
}

/// Addresses of map values stay inside the values, as far as the geometry is known.
bool value_offsets_fit(const Flow& flow, const CompileOptions& options) {
  if (options.geometry == nullptr) return true;
  for (uint32_t i = 0; i < flow.insns.size(); i = flow.next(i)) {
    const Insn& insn = flow.insns[i];
    const bool is_value = insn.src == kPseudoMapValue || insn.src == kPseudoMapIdxValue;
    if (!insn.is_lddw() || !is_value) continue;
    const MapGeometry map = options.geometry(options.user, static_cast<uint32_t>(insn.imm));
    const uint64_t bytes = uint64_t{map.max_entries} * map.value_stride;
    if (map.type != 0 && static_cast<uint32_t>(flow.insns[i + 1].imm) >= bytes) return false;
  }
  return true;
}

Cond condition(uint8_t op) {
  switch (op) {
    case kJeq:
      return x86::kE;
    case kJgt:
      return x86::kA;
    case kJge:
      return x86::kAe;
    case kJset:
    case kJne:
      return x86::kNe;
    case kJsgt:
      return x86::kG;
    case kJsge:
      return x86::kGe;
    case kJlt:
      return x86::kB;
    case kJle:
      return x86::kBe;
    case kJslt:
      return x86::kL;
    default:
      return x86::kLe;
  }
}

}  // namespace

JitX86::JitX86(const Flow& flow, const CompileOptions& options)
    : flow_(flow),
      options_(options),
      live_(live_after(flow)),
      lookups_(flow, live_, options),
      dead_(flow, lookups_, &live_) {}

JitX86::Reg JitX86::reg(uint8_t bpf_reg) {
  constexpr Reg kRegs[] = {x86::kRax, x86::kRdi, x86::kRsi, x86::kRdx, x86::kRcx, x86::kR8,
                           x86::kRbx, x86::kR13, x86::kR14, x86::kR15, x86::kRbp};
  return kRegs[bpf_reg];
}

ProgramImage JitX86::run() {
  labels_.assign(flow_.insns.size(), kNoLabel);
  for (uint32_t i = 0; i < flow_.insns.size(); ++i) {
    if (flow_.is_target[i] != 0) labels_[i] = emit_.new_label();
  }
  for (size_t i = 0; i < flow_.subprogs.size(); ++i) function_labels_.push_back(emit_.new_label());
  const TailUse tails = tail_use();
  if (tails != TailUse::kNone) count_tail_calls();
  for (uint32_t i = 0; i < flow_.subprogs.size(); ++i) {
    emit_.bind(function_labels_[i]);
    compile_function(flow_.subprogs[i]);
  }
  ProgramImage image;
  image.text = emit_.finish();
  image.got = std::move(got_);
  image.entry_off = 0;
  image.tail_off = emit_.offset_of(function_labels_[0]);
  image.tail_calls = tails != TailUse::kNone;
  image.tail_nests = tails == TailUse::kFunctions;
  image.insn_count = static_cast<uint32_t>(flow_.insns.size());
  const ContextUse context = context_use(flow_);
  image.ctx_read_mask = context.read_mask;
  image.escapes_ctx = context.escapes;
  image.cpu_features = features_used_;
  return image;
}

void JitX86::compile_function(const Subprog& subprog) {
  prologue(subprog);
  if (options_.is_budgeted) {
    if (subprog.start == 0) emit_.mov(x86::kR12, x86::kRdx, true);
    charge(subprog.end - subprog.start);
  }
  const std::vector<Segment> segments = layout(flow_, subprog);
  for (size_t i = 1; i < segments.size(); ++i) {
    label_for(segments[i].start);
    if (segments[i - 1].end < subprog.end) label_for(segments[i - 1].end);
  }
  zero_extended_ = 0;
  uint32_t former = kNoSlot;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    segment_end_ = segment.end;
    segment_next_ = i + 1 < segments.size() ? segments[i + 1].start : kNoSlot;
    // A further turn of a loop is entered from the one before it only, and has no labels.
    if (segment.start != former && labels_[segment.start] != kNoLabel) {
      emit_.bind(labels_[segment.start]);
      zero_extended_ = 0;
    }
    former = segment.start;
    compile_segment(segment);
  }
  cold_code();
}

void JitX86::compile_segment(const Segment& segment) {
  uint32_t last = kNoSlot;
  for (uint32_t i = segment.start; i < segment.end;) {
    if (flow_.is_reachable[i] == 0) {
      i = flow_.next(i);
      continue;
    }
    if (i != segment.start && labels_[i] != kNoLabel) {
      emit_.bind(labels_[i]);
      zero_extended_ = 0;
    }
    const uint32_t end = i + compile_insn(i);
    for (; i < end; i = flow_.next(i)) {
      zero_extended_ = zero_extended_after(flow_.insns[i], zero_extended_);
      last = i;
    }
  }
  const Insn& insn = flow_.insns[last];
  const bool went_on = insn.is_goto() || insn.is_exit() || insn.is_branch();
  if (!went_on) jump_to(last, segment.end);
}

void JitX86::prologue(const Subprog& subprog) {
  FrameUse use = frame_use(flow_, subprog, live_);
  if (dead_.is_frame_dead(subprog)) use.uses_frame = false;
  bool has_calls = false;
  for (uint32_t i = subprog.start; i < subprog.end; i = flow_.next(i)) {
    if (flow_.is_reachable[i] == 0 || !flow_.insns[i].is_call()) continue;
    const InlineLookup* lookup = lookups_.at(i);
    if (lookup != nullptr && !lookup->is_hash) continue;
    if (is_tail_call(i)) continue;
    const CallTarget target = flow_.call_target(i);
    has_calls |= !target.is_helper || !is_inlined_helper(target.value);
  }
  if (subprog.start == 0 || subprog.address_taken) emit_.endbr64();
  has_calls |= options_.is_budgeted;
  saved_.clear();
  if (options_.is_budgeted && subprog.start == 0) saved_.push_back(x86::kR12);
  for (uint8_t r = 6; r <= 9; ++r) {
    if ((use.written & kCalleeSaved) >> r & 1) saved_.push_back(reg(r));
  }
  for (const Reg r : saved_) emit_.push(r);
  has_frame_ = use.uses_frame;
  has_pad_ = false;
  frame_bytes_ = 0;
  // A call needs rsp to be a multiple of 16; at entry it is 8 off.
  const auto pushed_bytes = static_cast<uint32_t>(8 + 8 * saved_.size() + (has_frame_ ? 8 : 0));
  if (!has_frame_) {
    has_pad_ = has_calls && pushed_bytes % 16 != 0;
    if (has_pad_) emit_.push(x86::kRax);
    return;
  }
  emit_.push(x86::kRbp);
  emit_.mov(x86::kRbp, x86::kRsp, true);
  frame_bytes_ = (use.stack_bytes + 7) & ~7u;
  if (has_calls) {
    frame_bytes_ += (pushed_bytes + frame_bytes_) % 16;
  } else if (frame_bytes_ <= kRedZoneBytes) {
    frame_bytes_ = 0;
  }
  if (frame_bytes_ != 0) {
    emit_.alu_imm(Alu::kSub, x86::kRsp, static_cast<int32_t>(frame_bytes_), true);
  }
}

/// Registers and stack as they were when the function was called.
void JitX86::leave_frame() {
  if (has_frame_) {
    if (frame_bytes_ != 0) {
      emit_.leave();
    } else {
      emit_.pop(x86::kRbp);
    }
  } else if (has_pad_) {
    emit_.pop(x86::kRcx);
  }
  for (size_t i = saved_.size(); i-- > 0;) emit_.pop(saved_[i]);
}

void JitX86::epilogue() {
  leave_frame();
  emit_.ret();
}

const JitX86::Insn* JitX86::follower(uint32_t slot, uint32_t count) const {
  const uint32_t at = slot + count;
  if (at >= segment_end_ || flow_.is_target[at] != 0) return nullptr;
  if (dead_.is_dropped(at)) return nullptr;
  return &flow_.insns[at];
}

/// Emits the instruction at `slot`, and those after it that it could be fused with; returns how
/// many slots that were.
uint32_t JitX86::compile_insn(uint32_t slot) {
  const Insn& insn = flow_.insns[slot];
  if (lookups_.is_elided(slot) || dead_.is_dropped(slot)) return insn.is_lddw() ? 2 : 1;
  switch (insn.cls()) {
    case kAlu:
    case kAlu64:
      if (const uint32_t fused = fuse_atomic(slot); fused != 0) return fused;
      return compile_alu(slot);
    case kLd:
      return compile_lddw(slot);
    case kLdx:
      return compile_load(slot);
    case kSt:
      compile_store(insn);
      return 1;
    case kStx:
      if (insn.is_atomic()) {
        compile_atomic(slot);
      } else {
        compile_store(insn);
      }
      return 1;
    case kJmp:
    case kJmp32:
      break;
  }
  if (insn.is_call()) return compile_call(slot);
  if (insn.is_exit()) {
    epilogue();
  } else if (insn.is_goto()) {
    charge_jump(slot);
    jump_to(slot, flow_.jump_target(slot));
  } else {
    return compile_branch(slot);
  }
  return 1;
}

uint32_t JitX86::written_after(uint32_t slot) const {
  const uint32_t next = flow_.next(slot);
  return next == segment_end_ ? segment_next_ : next;
}

Label JitX86::label_for(uint32_t slot) {
  if (labels_[slot] == kNoLabel) labels_[slot] = emit_.new_label();
  return labels_[slot];
}

void JitX86::jump_to(uint32_t slot, uint32_t target) {
  if (target != written_after(slot)) emit_.jmp(labels_[target]);
}

uint32_t JitX86::compile_branch(uint32_t slot) {
  const uint32_t target = flow_.jump_target(slot);
  charge_jump(slot);
  if (flow_.decided[slot] != Flow::kOpen) {
    jump_to(slot, flow_.decided[slot] == Flow::kAlways ? target : slot + 1);
    return 1;
  }
  if (target == slot + 1) {
    jump_to(slot, target);
    return 1;
  }
  // "if c goto over; goto there; over:" is one jump.
  const Insn* next = follower(slot, 1);
  if (next != nullptr && next->is_goto() && target == slot + 2) charge_jump(slot + 1);
  const Cond cond = compare(flow_.insns[slot]);
  if (next != nullptr && next->is_goto() && target == slot + 2) {
    branch_to(slot + 1, x86::negate(cond), flow_.jump_target(slot + 1));
    return 2;
  }
  branch_to(slot, cond, target);
  return 1;
}

/// Ends the instruction at `slot`: leads to `target` if `cond` holds, else to what follows.
void JitX86::branch_to(uint32_t slot, Cond cond, uint32_t target) {
  if (target == written_after(slot)) {
    emit_.jcc(x86::negate(cond), labels_[slot + 1]);
    return;
  }
  emit_.jcc(cond, labels_[target]);
  jump_to(slot, slot + 1);
}

Cond JitX86::compare(const Insn& insn) {
  const bool wide = insn.cls() == kJmp;
  const Reg dst = reg(insn.dst);
  const bool is_test = insn.op() == kJset;
  if (insn.src_is_reg()) {
    if (is_test) {
      emit_.test(dst, reg(insn.src), wide);
    } else {
      emit_.alu(Alu::kCmp, dst, reg(insn.src), wide);
    }
  } else if (is_test) {
    emit_.test_imm(dst, insn.imm, wide);
  } else if (insn.imm == 0) {
    // Sets every flag as a comparison with zero does. A register known to be zero extended has the
    // same answer in the shorter form, except for its sign.
    const bool is_equality = insn.op() == kJeq || insn.op() == kJne;
    const bool narrow = is_equality && (zero_extended_ >> insn.dst & 1) != 0;
    emit_.test(dst, dst, wide && !narrow);
  } else {
    emit_.alu_imm(Alu::kCmp, dst, insn.imm, wide);
  }
  return condition(insn.op());
}

uint32_t JitX86::compile_lddw(uint32_t slot) {
  const Insn& insn = flow_.insns[slot];
  const Insn& second = flow_.insns[slot + 1];
  const Reg dst = reg(insn.dst);
  const auto index = static_cast<uint32_t>(insn.imm);
  switch (insn.src) {
    case kPseudoFunc:
      emit_.lea(dst, function_labels_[flow_.subprog_of(slot + 1 + index)]);
      break;
    case kPseudoMapFd:
    case kPseudoMapIdx:
      emit_.load_got(dst, got_slot(GotKind::kMap, index, 0));
      break;
    case kPseudoMapValue:
    case kPseudoMapIdxValue:
      emit_.load_got(dst, got_slot(GotKind::kMapValue, index, static_cast<uint32_t>(second.imm)));
      break;
    default:
      emit_.mov_imm(dst, lddw_imm(insn, second));
  }
  return 2;
}

void JitX86::cold_code() {
  for (const ColdDivision& cold : cold_) {
    emit_.bind(cold.entry);
    if (cold.is_minus_one && !cold.is_mod) {
      emit_.unary(x86::Unary::kNeg, cold.dst, cold.wide);
    } else if (cold.is_minus_one || !cold.is_mod) {
      emit_.zero(cold.dst);
    } else if (!cold.wide) {
      emit_.mov(cold.dst, cold.dst, false);
    }
    emit_.jmp(cold.back);
  }
  cold_.clear();
  cold_lookups();
  cold_budget();
}

uint32_t JitX86::got_slot(GotKind kind, uint32_t index, uint64_t offset) {
  const auto next = static_cast<uint32_t>(got_.size());
  const auto [at, is_new] = got_index_.try_emplace(GotKey{kind, index, offset}, next);
  if (is_new) got_.push_back(GotSlot{kind, index, offset});
  return at->second;
}

uint32_t cpu_features_host() {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return 0;
  uint32_t features = 0;
  if ((ebx & bit_BMI2) != 0) features |= kCpuBmi2;
  if ((ecx & 1u << 22) != 0) features |= kCpuRdpid;
  return features;
}

Result<ProgramImage> compile(std::span<const uint64_t> slots, const CompileOptions& options) {
  ValidateOptions checks;
  checks.helpers = options.helpers;
  Verdict verdict = validate_insns(slots);
  if (!verdict.ok) return fail(EINVAL, verdict.reason);
  Flow flow;
  verdict = build_flow(slots, checks, &flow);
  if (!verdict.ok) return fail(EINVAL, verdict.reason);
  if (!value_offsets_fit(flow, options)) {
    return fail(EINVAL, "address of a map value is outside the map's values");
  }
  // Both need r12.
  if (options.is_budgeted && options.tail_calls) return fail(EOPNOTSUPP, "budgets and tail calls");
  if (options.is_budgeted && flow.has_callbacks) {
    return fail(EOPNOTSUPP, "budgets in compiled programs with callbacks (do not compile it)");
  }
  return JitX86(flow, options).run();
}

}  // namespace bpftime

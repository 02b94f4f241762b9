// SPDX-License-Identifier: MIT
#include "facts.h"

#include <algorithm>

#include "verify/contracts.h"

namespace bpftime {
namespace {

using namespace isa;

constexpr uint16_t kAllRegs = 0x7ff;
constexpr uint32_t kLivePassesMax = 24;     // then everything counts as live
constexpr uint32_t kContextPassesMax = 24;  // then the context counts as escaped
constexpr uint32_t kContextBytes = 168;     // struct pt_regs

using Dropped = std::vector<uint8_t>;

uint16_t live_before(const Flow& flow, const std::vector<uint16_t>& live, uint32_t slot,
                     const Dropped* dropped = nullptr) {
  if (dropped != nullptr && !dropped->empty() && (*dropped)[slot] != 0) return live[slot];
  const RegUse use = reg_use(flow.insns[slot]);
  return static_cast<uint16_t>((live[slot] & ~use.writes) | use.reads);
}

/// One backward pass over a function; true if anything changed.
bool live_pass(const Flow& flow, const Subprog& subprog, const Dropped* dropped,
               std::vector<uint16_t>* live) {
  bool changed = false;
  for (uint32_t i = subprog.end; i-- > subprog.start;) {
    if (flow.is_second[i] != 0 || flow.is_reachable[i] == 0) continue;
    const Insn& insn = flow.insns[i];
    if (insn.is_exit()) continue;
    uint16_t after = 0;
    if (insn.is_goto() || insn.is_branch()) {
      after |= live_before(flow, *live, flow.jump_target(i), dropped);
    }
    if (!insn.is_goto()) after |= live_before(flow, *live, flow.next(i), dropped);
    changed |= after != (*live)[i];
    (*live)[i] = after;
  }
  return changed;
}

/// Tracks, within one basic block, which registers hold r10 plus a constant.
class StackScan {
 public:
  StackScan(const Flow& flow, const std::vector<uint16_t>& live) : flow_(flow), live_(live) {}

  FrameUse scan(const Subprog& subprog) {
    for (uint32_t i = subprog.start; i < subprog.end; i = flow_.next(i)) {
      if (flow_.is_reachable[i] == 0) continue;
      if (flow_.is_target[i] != 0) leave_block(live_before(flow_, live_, i));
      step(i, flow_.insns[i]);
    }
    return use_;
  }

 private:
  [[nodiscard]] bool holds_stack(uint8_t reg) const {
    return reg == kFrameReg || (stack_regs_ >> reg & 1) != 0;
  }
  void touch(int32_t off) {
    if (off >= 0) return;
    const auto bytes = static_cast<uint32_t>(-off);
    use_.stack_bytes = std::min(kFrameBytes, std::max(use_.stack_bytes, bytes));
  }
  void touch_all() { use_.stack_bytes = kFrameBytes; }

  /// A pointer that outlives its block may be moved anywhere inside the frame.
  void leave_block(uint16_t live) {
    if ((stack_regs_ & live) != 0) touch_all();
    stack_regs_ = 0;
  }

  void step(uint32_t slot, const Insn& insn) {
    const RegUse regs = reg_use(insn);
    use_.written |= regs.writes;
    if ((regs.reads >> kFrameReg & 1) != 0) use_.uses_frame = true;
    if (insn.is_alu()) return step_alu(insn);
    if (insn.is_branch() || insn.is_goto()) {
      const uint16_t live = live_before(flow_, live_, flow_.jump_target(slot));
      if ((stack_regs_ & live) != 0) touch_all();
    } else if (insn.is_call()) {
      // Helpers read and write upwards of what they get; functions may do anything with it.
      const bool is_local = !flow_.call_target(slot).is_helper || flow_.has_callbacks;
      if (is_local && (stack_regs_ & 0x3e) != 0) touch_all();
    } else if (insn.is_exit()) {
      stack_regs_ = 0;
    } else {
      step_memory(insn);
    }
    stack_regs_ &= static_cast<uint16_t>(~regs.writes);
  }

  void step_alu(const Insn& insn) {
    const bool from_stack = insn.src_is_reg() && insn.op() != kEnd && holds_stack(insn.src);
    const auto dst_bit = static_cast<uint16_t>(1u << insn.dst);
    if (insn.op() == kMov) {
      stack_regs_ &= static_cast<uint16_t>(~dst_bit);
      if (!from_stack) return;
      if (insn.cls() != kAlu64 || insn.off != 0) return touch_all();
      stack_regs_ |= dst_bit;
      offsets_[insn.dst] = insn.src == kFrameReg ? 0 : offsets_[insn.src];
      return;
    }
    if (!from_stack && !holds_stack(insn.dst)) return;
    if (insn.op() == kAdd && insn.cls() == kAlu64 && !insn.src_is_reg()) {
      const int64_t off = int64_t{offsets_[insn.dst]} + insn.imm;
      if (off >= -int64_t{kFrameBytes} && off <= 0) {
        offsets_[insn.dst] = static_cast<int32_t>(off);
        return touch(offsets_[insn.dst]);
      }
    }
    touch_all();
    stack_regs_ &= static_cast<uint16_t>(~dst_bit);
  }

  void step_memory(const Insn& insn) {
    const bool is_load = insn.cls() == kLdx || (insn.is_atomic() && insn.imm == kAtomicLoadAcq);
    const uint8_t base = is_load ? insn.src : insn.dst;
    if (holds_stack(base)) touch((base == kFrameReg ? 0 : offsets_[base]) + insn.off);
    const bool stores_reg = insn.cls() == kStx && !is_load;
    if (stores_reg && holds_stack(insn.src)) touch_all();
    if (insn.is_atomic() && holds_stack(0)) touch_all();  // cmpxchg compares with r0
  }

  const Flow& flow_;
  const std::vector<uint16_t>& live_;
  FrameUse use_;
  uint16_t stack_regs_ = 0;
  int32_t offsets_[kFrameReg + 1] = {};
};

/// What a register may hold, seen from the context pointer.
struct CtxValue {
  enum Kind : uint8_t { kUnset, kOther, kCtx, kMaybe } kind = kUnset;
  int32_t off = 0;
  bool operator==(const CtxValue&) const = default;
};

CtxValue join(const CtxValue& a, const CtxValue& b) {
  if (a == b || b.kind == CtxValue::kUnset) return a;
  if (a.kind == CtxValue::kUnset) return b;
  return {CtxValue::kMaybe, 0};
}

/// Forward data flow of the context pointer through the registers of the main program.
class ContextScan {
 public:
  explicit ContextScan(const Flow& flow) : flow_(flow) {}

  ContextUse scan() {
    const Subprog& main = flow_.subprogs.front();
    entry_index_.resize(main.end);
    uint32_t count = 0;
    for (uint32_t i = main.start; i < main.end; ++i) {
      entry_index_[i] = count;
      count += flow_.is_target[i];
    }
    entry_.resize(count);
    State& first = entry_[0];  // the main program begins at a target
    first.regs[1] = {CtxValue::kCtx, 0};
    first.is_set = true;
    for (uint32_t pass = 0; pass < kContextPassesMax && !use_.escapes; ++pass) {
      if (!scan_once(main)) return use_;
    }
    return ContextUse{use_.read_mask, true};
  }

 private:
  struct State {
    CtxValue regs[kFrameReg + 1];
    bool is_set = false;
  };

  bool scan_once(const Subprog& main) {
    changed_ = false;
    State state;
    for (uint32_t i = main.start; i < main.end; i = flow_.next(i)) {
      if (flow_.is_reachable[i] == 0) continue;
      if (flow_.is_target[i] != 0) {
        if (state.is_set) merge(i, state);
        state = entry_[entry_index_[i]];  // not set: only a later jump leads here, next pass
      }
      if (!state.is_set) continue;
      const Insn& insn = flow_.insns[i];
      step(i, insn, &state);
      if (insn.is_branch() || insn.is_goto()) merge(flow_.jump_target(i), state);
      const bool ends = insn.is_goto() || insn.is_exit() || flow_.decided[i] == Flow::kAlways;
      if (ends) state.is_set = false;
    }
    return changed_;
  }

  void merge(uint32_t slot, const State& from) {
    State& to = entry_[entry_index_[slot]];
    const bool first = !to.is_set;
    changed_ |= first;
    to.is_set = true;
    for (uint32_t r = 0; r <= kFrameReg; ++r) {
      const CtxValue joined = first ? from.regs[r] : join(to.regs[r], from.regs[r]);
      changed_ |= !(joined == to.regs[r]);
      to.regs[r] = joined;
    }
  }

  static bool is_ctx(const CtxValue& value) {
    return value.kind == CtxValue::kCtx || value.kind == CtxValue::kMaybe;
  }

  void read(const CtxValue& base, int32_t off, uint32_t size_bytes) {
    if (!is_ctx(base)) return;
    const int64_t first = int64_t{base.off} + off;
    if (base.kind == CtxValue::kMaybe || first < 0 || first + size_bytes > kContextBytes) {
      use_.escapes = true;
      return;
    }
    for (int64_t word = first / 8; word <= (first + size_bytes - 1) / 8; ++word) {
      use_.read_mask |= 1u << word;
    }
  }

  void step(uint32_t slot, const Insn& insn, State* state) {
    const RegUse regs = reg_use(insn);
    if (insn.is_alu()) return step_alu(insn, state);
    if (insn.is_call()) {
      const CallTarget target = flow_.call_target(slot);
      const uint32_t arity = target.is_helper ? helper_arity(target.value) : 5;
      for (uint32_t r = 1; r <= arity; ++r) use_.escapes |= is_ctx(state->regs[r]);
    } else if (insn.cls() == kLdx) {
      read(state->regs[insn.src], insn.off, insn.size_bytes());
    } else if (insn.cls() == kSt || insn.cls() == kStx) {
      // A write through the context, or a copy of it in memory: assume the worst.
      use_.escapes |= is_ctx(state->regs[insn.dst]);
      use_.escapes |= insn.cls() == kStx && is_ctx(state->regs[insn.src]);
      if (insn.is_atomic()) use_.escapes |= is_ctx(state->regs[0]);
    }
    for (uint32_t r = 0; r <= kFrameReg; ++r) {
      if ((regs.writes >> r & 1) != 0) state->regs[r] = {CtxValue::kOther, 0};
    }
  }

  void step_alu(const Insn& insn, State* state) {
    CtxValue& dst = state->regs[insn.dst];
    const CtxValue src = insn.src_is_reg() && insn.op() != kEnd ? state->regs[insn.src]
                                                                : CtxValue{CtxValue::kOther, 0};
    const bool wide = insn.cls() == kAlu64;
    if (insn.op() == kMov && (!is_ctx(src) || (wide && insn.off == 0))) {
      dst = src;
      return;
    }
    if (insn.op() == kAdd && wide && !insn.src_is_reg() && dst.kind == CtxValue::kCtx) {
      const int64_t off = int64_t{dst.off} + insn.imm;
      const bool inside = off >= 0 && off <= kContextBytes;
      dst = inside ? CtxValue{CtxValue::kCtx, static_cast<int32_t>(off)}
                   : CtxValue{CtxValue::kMaybe, 0};
      return;
    }
    const bool tainted = is_ctx(src) || (is_ctx(dst) && insn.op() != kMov);
    dst = {tainted ? CtxValue::kMaybe : CtxValue::kOther, 0};
  }

  const Flow& flow_;
  std::vector<uint32_t> entry_index_;  // per slot, valid where is_target
  std::vector<State> entry_;           // on entry to each target
  ContextUse use_;
  bool changed_ = false;
};

}  // namespace

std::vector<uint16_t> live_after(const Flow& flow, const std::vector<uint8_t>* dropped) {
  std::vector<uint16_t> live(flow.insns.size(), 0);
  for (const Subprog& subprog : flow.subprogs) {
    uint32_t passes = 0;
    while (live_pass(flow, subprog, dropped, &live)) {
      if (++passes < kLivePassesMax) continue;
      std::fill(live.begin() + subprog.start, live.begin() + subprog.end, kAllRegs);
      break;
    }
  }
  return live;
}

FrameUse frame_use(const Flow& flow, const Subprog& subprog, const std::vector<uint16_t>& live) {
  return StackScan(flow, live).scan(subprog);
}

ContextUse context_use(const Flow& flow) { return ContextScan(flow).scan(); }

uint32_t helper_arity(uint32_t id) {
  const verify::Contract* contract = verify::contract_of(id);
  return contract != nullptr ? contract->arity() : 5;
}

}  // namespace bpftime

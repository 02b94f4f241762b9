// SPDX-License-Identifier: MIT
// Paths: from one instruction to the next, into functions and out of them, to the end.
#include <algorithm>

#include "explorer.h"
#include "liveness.h"
#include "tail_calls.h"

namespace bpftime::verify {

using namespace isa;

namespace {

constexpr size_t kPendingMax = 8192;  // branches that wait to be walked

State start_of(uint32_t slot, uint32_t subprog) {
  State state;
  state.slot = slot;
  state.frames.resize(1);
  state.frames[0].subprog = subprog;
  state.frames[0].regs[kFrameReg] = Reg::pointer(Kind::kStack);
  return state;
}

Outcome refused_by_validator(const Verdict& verdict, const Source& source) {
  Outcome outcome;
  outcome.errnum = EINVAL;
  outcome.insn_index = verdict.insn_index;
  outcome.reason = verdict.reason;
  outcome.where = source.where(verdict.insn_index);
  return outcome;
}

}  // namespace

Explorer::Explorer(Shared* shared)
    : shared_(shared), flow_(shared->flow), options_(shared->options) {
  shared_->kept_at.resize(flow_.insns.size());
}

Explorer::~Explorer() {
  for (const uint32_t slot : kept_slots_) shared_->kept_at[slot].clear();
}

Outcome Explorer::explore(State start) {
  now_ = std::move(start);
  while (true) {
    if (walk() == Step::kRefused) break;
    end_path();
    if (pending_.empty()) break;
    now_ = std::move(pending_.back());
    pending_.pop_back();
    pending_bytes_ -= now_.size_bytes();
  }
  outcome_.walked = shared_->walked;
  outcome_.states = static_cast<uint32_t>(checkpoints_.size());
  return std::move(outcome_);
}

Explorer::Step Explorer::walk() {
  while (true) {
    const uint32_t slot = now_.slot;
    if (++shared_->walked > options_.insn_budget) {
      refuse(E2BIG, text("the program is too complex: %u instructions were walked and paths are "
                         "left (make loops shorter or bounded by constants, or use bpf_loop)",
                         options_.insn_budget));
      return Step::kRefused;
    }
    if (flow_.is_target[slot] != 0) {
      bool is_covered = false;
      if (!arrive(&is_covered)) return Step::kRefused;
      if (is_covered) return Step::kEnd;
    }
    ++now_.walked;
    note_claims();
    next_ = flow_.next(slot);
    std::fill(shared_->reached.begin() + slot, shared_->reached.begin() + next_, uint8_t{1});
    const Step step_result = step(flow_.insns[slot]);
    if (step_result != Step::kGo) return step_result;
    now_.slot = next_;
  }
}

Explorer::Step Explorer::step(const Insn& insn) {
  const auto done = [](bool ok) { return ok ? Step::kGo : Step::kRefused; };
  if (insn.is_alu()) return done(step_alu(insn));
  if (insn.is_exit()) return leave();
  if (insn.is_call()) return step_call(now_.slot);
  if (insn.is_goto()) {
    next_ = flow_.jump_target(now_.slot);
    return Step::kGo;
  }
  if (insn.is_branch()) return step_branch(insn);
  switch (insn.cls()) {
    case kLd:
      return done(step_lddw(insn, flow_.insns[now_.slot + 1]));
    case kLdx:
      return done(step_load(insn));
    default:
      return done(insn.is_atomic() ? step_atomic(insn) : step_store(insn));
  }
}

Explorer::Step Explorer::leave() {
  if (now_.depth() > 0) return return_from_frame() ? Step::kGo : Step::kRefused;
  if (!need_set(0)) return Step::kRefused;
  if (now_.frame().entry == Entry::kGlobal && !now_.reg(0).is_number()) {
    refuse(EINVAL,
           "a global function returns a pointer: what calls it knows only that it is a "
           "number (make the function static)");
    return Step::kRefused;
  }
  if (now_.held.empty() || is_weak(kForgetRecords)) return Step::kEnd;
  const Held& held = now_.held.front();
  refuse(EINVAL, text("the program ends and keeps a record that it reserved at instruction %u: "
                      "nobody would ever get it (bpf_ringbuf_submit or bpf_ringbuf_discard it on "
                      "every path)",
                      held.slot));
  return Step::kRefused;
}

bool Explorer::return_from_frame() {
  const Frame& frame = now_.frame();
  Reg result = frame.regs[0];
  const uint32_t call_slot = frame.call_slot;
  if (frame.entry == Entry::kCall) {
    if (result.kind == Kind::kStack && result.frame == now_.depth()) {
      return refuse(EINVAL,
                    "the function returns the address of its own stack, which is gone then "
                    "(let the caller pass memory in)");
    }
    now_.frames.pop_back();
    now_.reg(0) = result;
    for (uint8_t r = 1; r <= 5; ++r) now_.reg(r) = Reg{};
    next_ = flow_.next(call_slot);
    return true;
  }
  if (!need_set(0)) return false;
  if (!result.is_number() || result.num.wide.umax > 1) {
    return refuse(EINVAL, text("a callback returns %s: it has to be 0 (go on) or 1 (stop)",
                               result.is_number() ? "another number" : name_of(result).c_str()));
  }
  mark_exact(result.origins);
  if (now_.held.size() != frame.held_before) {
    return refuse(EINVAL,
                  "the callback reserves a record and keeps it, or gives one back that it "
                  "did not reserve (do both inside of it)");
  }
  now_.frames.pop_back();
  next_ = call_slot;  // once more, or on: see call_back()
  now_.is_called_back = true;
  return true;
}

void Explorer::end_path() {
  uint32_t at = now_.checkpoint;
  while (at != kNone && --checkpoints_[at]->open == 0) at = checkpoints_[at]->parent;
}

bool Explorer::push(State state) {
  const uint64_t bytes = state.size_bytes();
  pending_bytes_ += bytes;
  shared_->copied_bytes += bytes;
  if (shared_->copied_bytes > kCopiedBytesMax) {
    return refuse(E2BIG,
                  "the program is too complex: too many paths with too much on the stack "
                  "(split it, or bound its loops by constants)");
  }
  if (pending_.size() >= kPendingMax || pending_bytes_ > kStateBytesMax) {
    return refuse(E2BIG, text("the program is too complex: %zu branches wait to be walked (split "
                              "it, or use bpf_loop)",
                              pending_.size()));
  }
  if (state.checkpoint != kNone) ++checkpoints_[state.checkpoint]->open;
  pending_.push_back(std::move(state));
  return true;
}

void Explorer::note_claims() {
  if (options_.claims == nullptr) return;
  Claims::AtSlot& at = options_.claims->slots[now_.slot];
  at.is_reached = true;
  // Nothing is claimed of what nobody reads: states are told apart without it.
  for (uint32_t r = 0; r < kRegs; ++r) {
    at.regs[r].merge(is_live(now_.slot, r) ? now_.frame().regs[r] : Reg{});
  }
}

Outcome verify(std::span<const uint64_t> slots, const Options& options) {
  const Source source(options.debug);
  ValidateOptions structure;
  structure.helpers = options.helpers;
  structure.prog_type = options.prog_type;
  structure.defer_helpers = true;
  Verdict verdict = validate_insns(slots);
  if (!verdict) return refused_by_validator(verdict, source);
  Flow flow;
  verdict = build_flow(slots, structure, &flow);
  if (!verdict) return refused_by_validator(verdict, source);
  if (const TailCallRefusal refusal = check_tail_calls(flow); refusal.reason != nullptr) {
    verdict = {false, refusal.slot, flow.insns[refusal.slot].opcode, refusal.reason};
    return refused_by_validator(verdict, source);
  }
  if (options.claims != nullptr) options.claims->slots.assign(slots.size(), {});
  const Context& context =
      options.context != nullptr ? *options.context : context_of(options.prog_type);
  Shared shared{flow, options, context, source, live_before(flow, options.contracts)};
  shared.reached.assign(slots.size(), 0);
  shared.globals_seen.assign(flow.subprogs.size(), 0);
  State start = start_of(0, 0);
  start.frames[0].regs[1] = Reg::pointer(Kind::kCtx);
  Outcome outcome = Explorer(&shared).explore(std::move(start));
  while (outcome.ok() && !shared.globals_due.empty()) {
    const uint32_t subprog = shared.globals_due.back();
    shared.globals_due.pop_back();
    State root = start_of(flow.subprogs[subprog].start, subprog);
    root.frames[0].entry = Entry::kGlobal;
    const std::vector<Parameter> parameters =
        source.parameters(flow.subprogs[subprog].start).value_or(std::vector<Parameter>{});
    for (uint8_t r = 0; r < parameters.size() && r < 5; ++r) {
      root.frames[0].regs[r + 1] = argument_of(parameters[r], r + 1u);
    }
    outcome = Explorer(&shared).explore(std::move(root));
  }
  outcome.reached = std::move(shared.reached);
  return outcome;
}

}  // namespace bpftime::verify

// SPDX-License-Identifier: MIT
#include "tail_calls.h"

#include <linux/bpf.h>

#include <algorithm>
#include <vector>

#include "explorer.h"

namespace bpftime::verify {
namespace {

using namespace isa;

constexpr uint32_t kStackBeforeMax = 256;  // as in the kernel
constexpr uint32_t kNoCall = ~0u;

class TailCalls {
 public:
  explicit TailCalls(const Flow& flow) : flow_(flow), made_at_(flow.subprogs.size(), kNoCall) {}

  TailCallRefusal check() {
    find();
    if (std::all_of(made_at_.begin(), made_at_.end(), [](uint32_t at) { return at == kNoCall; })) {
      return {};
    }
    const std::vector<uint8_t> waited_for = called_back();
    for (size_t s = 0; s < made_at_.size(); ++s) {
      if (made_at_[s] == kNoCall) continue;
      if (waited_for[s] != 0) {
        return {made_at_[s],
                "bpf_tail_call in a function that is called back: the helper that calls it waits "
                "for its end (return from it, and make the tail call behind the loop)"};
      }
    }
    return {};
  }

 private:
  struct Edge {
    uint32_t from, to;
    bool is_callback;
  };

  void find() {
    for (uint32_t s = 0; s < flow_.subprogs.size(); ++s) {
      for (uint32_t i = flow_.subprogs[s].start; i < flow_.subprogs[s].end; i = flow_.next(i)) {
        if (flow_.is_reachable[i] != 0) look_at(s, i);
      }
    }
  }

  void look_at(uint32_t subprog, uint32_t slot) {
    const Insn& insn = flow_.insns[slot];
    if (insn.is_lddw() && insn.src == kPseudoFunc) {
      const uint32_t start = slot + 1 + static_cast<uint32_t>(insn.imm);
      edges_.push_back({subprog, flow_.subprog_of(start), true});
    }
    if (!insn.is_call()) return;
    const CallTarget target = flow_.call_target(slot);
    if (!target.is_helper) edges_.push_back({subprog, flow_.subprog_of(target.value), false});
    if (!target.is_helper || target.value != BPF_FUNC_tail_call) return;
    made_at_[subprog] = std::min(made_at_[subprog], slot);
  }

  /// Functions that helpers call, and what these call. Calls nest no deeper than there are frames.
  [[nodiscard]] std::vector<uint8_t> called_back() const {
    std::vector<uint8_t> found(made_at_.size());
    for (uint32_t round = 0; round < kCallFramesMax; ++round) {
      for (const Edge& edge : edges_) found[edge.to] |= edge.is_callback ? 1 : found[edge.from];
    }
    return found;
  }

  const Flow& flow_;
  std::vector<uint32_t> made_at_;  // by function: the first tail call
  std::vector<Edge> edges_;
};

}  // namespace

TailCallRefusal check_tail_calls(const Flow& flow) { return TailCalls(flow).check(); }

/// It goes on with another program, and the caller of this function gets what that returns; or it
/// does not, and the program goes on here.
Explorer::Step Explorer::tail_call(const Contract& contract) {
  if (!now_.held.empty()) {
    refuse(EINVAL,
           "bpf_tail_call with a record in hand: it would never be given back (submit or "
           "discard it first)");
    return Step::kRefused;
  }
  if (!check_arguments(contract)) return Step::kRefused;
  uint64_t stack_before = 0;
  for (uint32_t f = 0; f < now_.depth(); ++f) {
    stack_before += now_.frames[f].stack.size() * kSlotBytes;
  }
  if (stack_before >= kStackBeforeMax) {
    refuse(EINVAL,
           "bpf_tail_call in a function whose callers keep 256 bytes or more on the stack, which "
           "stay there for each tail call (make it in the main program)");
    return Step::kRefused;
  }
  if (now_.depth() > 0 && !is_weak(kTrustTailCalls)) {
    State gone = now_;
    now_.reg(0) = Reg::number(Scalar::any());
    if (!return_from_frame()) return Step::kRefused;
    now_.slot = next_;
    std::swap(gone, now_);
    next_ = flow_.next(now_.slot);
    if (!push(std::move(gone))) return Step::kRefused;
  }
  return give_result(contract) ? Step::kGo : Step::kRefused;
}

}  // namespace bpftime::verify

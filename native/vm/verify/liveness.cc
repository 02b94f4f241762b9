// SPDX-License-Identifier: MIT
#include "liveness.h"

#include <algorithm>

namespace bpftime::verify {
namespace {

using namespace isa;

constexpr uint16_t kAllRegs = 0x7ff;
constexpr uint16_t kArguments = 0x3e;  // r1-r5
constexpr uint32_t kPassesMax = 64;    // then everything counts as live

class Liveness {
 public:
  Liveness(const Flow& flow, const Contracts& contracts)
      : flow_(flow), contracts_(contracts), live_(flow.insns.size(), 0) {}

  std::vector<uint16_t> run() {
    for (uint32_t pass = 0; pass_over_all(); ++pass) {
      if (pass < kPassesMax) continue;
      std::fill(live_.begin(), live_.end(), kAllRegs);
      break;
    }
    return std::move(live_);
  }

 private:
  bool pass_over_all() {
    bool changed = false;
    for (auto i = static_cast<uint32_t>(flow_.insns.size()); i-- > 0;) {
      if (flow_.is_second[i] != 0 || flow_.is_reachable[i] == 0) continue;
      const Insn& insn = flow_.insns[i];
      uint16_t after = 0;
      if (insn.is_goto() || insn.is_branch()) after |= live_[flow_.jump_target(i)];
      if (!insn.is_goto() && !insn.is_exit()) after |= live_[flow_.next(i)];
      const auto before =
          static_cast<uint16_t>((after & ~reg_use(insn).writes) | reads_of(i, insn));
      changed |= before != live_[i];
      live_[i] = before;
    }
    return changed;
  }

  [[nodiscard]] uint16_t reads_of(uint32_t slot, const Insn& insn) const {
    const uint16_t reads = reg_use(insn).reads;
    if (!insn.is_call()) return reads;
    const CallTarget target = flow_.call_target(slot);
    const auto others = static_cast<uint16_t>(reads & ~kArguments);
    if (!target.is_helper) return others | (live_[target.value] & kArguments);
    const Contract* contract = contracts_(target.value);
    if (contract == nullptr) return reads;
    return others | static_cast<uint16_t>(((1u << contract->arity()) - 1) << 1);
  }

  const Flow& flow_;
  const Contracts& contracts_;
  std::vector<uint16_t> live_;
};

}  // namespace

std::vector<uint16_t> live_before(const Flow& flow, const Contracts& contracts) {
  return Liveness(flow, contracts).run();
}

}  // namespace bpftime::verify

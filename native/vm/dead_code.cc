// SPDX-License-Identifier: MIT
#include "dead_code.h"

#include <algorithm>

#include "facts.h"

namespace bpftime {
namespace {

using namespace isa;

constexpr int kRoundsMax = 4;

bool is_frame_store(const Insn& insn) {
  const bool is_store = insn.cls() == kSt || (insn.cls() == kStx && !insn.is_atomic());
  if (!is_store || insn.dst != kFrameReg) return false;
  if (insn.cls() == kStx && insn.src == kFrameReg) return false;
  const int32_t end = insn.off + static_cast<int32_t>(insn.size_bytes());
  return insn.off >= -static_cast<int32_t>(kFrameBytes) && end <= 0;
}

}  // namespace

DeadCode::DeadCode(const Flow& flow, const LookupPlan& lookups, std::vector<uint16_t>* live)
    : flow_(flow), lookups_(lookups) {
  for (const Subprog& subprog : flow.subprogs) {
    if (reads_frame(subprog)) continue;
    frameless_.push_back(subprog.start);
    drop_stores(subprog);
  }
  if (dropped_.empty()) return;
  for (int round = 0; round < kRoundsMax; ++round) {
    *live = live_after(flow, &dropped_);
    if (!drop_values(*live)) return;
  }
  *live = live_after(flow, &dropped_);
}

bool DeadCode::is_frame_dead(const Subprog& subprog) const {
  return std::binary_search(frameless_.begin(), frameless_.end(), subprog.start);
}

bool DeadCode::reads_frame(const Subprog& subprog) const {
  for (uint32_t i = subprog.start; i < subprog.end; i = flow_.next(i)) {
    if (flow_.is_reachable[i] == 0 || lookups_.is_elided(i)) continue;
    const InlineLookup* lookup = lookups_.at(i);
    if (lookup != nullptr && !lookup->key && lookup->key_off) return true;
    const Insn& insn = flow_.insns[i];
    if ((reg_use(insn).reads >> kFrameReg & 1) != 0 && !is_frame_store(insn)) return true;
  }
  return false;
}

void DeadCode::drop_stores(const Subprog& subprog) {
  for (uint32_t i = subprog.start; i < subprog.end; i = flow_.next(i)) {
    if (flow_.is_reachable[i] == 0 || !is_frame_store(flow_.insns[i])) continue;
    if (dropped_.empty()) dropped_.resize(flow_.insns.size());
    dropped_[i] = 1;
  }
}

/// Arithmetic whose result nobody reads.
bool DeadCode::drop_values(const std::vector<uint16_t>& live) {
  bool any = false;
  for (uint32_t i = 0; i < flow_.insns.size(); i = flow_.next(i)) {
    if (flow_.is_reachable[i] == 0 || is_dropped(i) || lookups_.is_elided(i)) continue;
    const Insn& insn = flow_.insns[i];
    if (!insn.is_alu() && !insn.is_lddw()) continue;
    if ((live[i] >> insn.dst & 1) != 0) continue;
    dropped_[i] = 1;
    any = true;
  }
  return any;
}

}  // namespace bpftime

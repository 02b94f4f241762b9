// SPDX-License-Identifier: MIT
// Instructions that inlined lookups leave without a purpose: a key that is a constant was stored in
// the stack frame for the helper alone. With it goes what made it, and the frame itself.
#pragma once

#include <cstdint>
#include <vector>

#include "flow.h"
#include "lookup_plan.h"

namespace bpftime {

class DeadCode {
 public:
  /// `live` (see live_after()) is brought up to date.
  DeadCode(const Flow& flow, const LookupPlan& lookups, std::vector<uint16_t>* live);

  /// True if the instruction at `slot` need not be executed.
  [[nodiscard]] bool is_dropped(uint32_t slot) const {
    return !dropped_.empty() && dropped_[slot] != 0;
  }
  /// True if nothing reads the frame of the function that begins at `start`.
  [[nodiscard]] bool is_frame_dead(const Subprog& subprog) const;

 private:
  [[nodiscard]] bool reads_frame(const Subprog& subprog) const;
  void drop_stores(const Subprog& subprog);
  bool drop_values(const std::vector<uint16_t>& live);

  const Flow& flow_;
  const LookupPlan& lookups_;
  std::vector<uint8_t> dropped_;     // per slot; empty: none
  std::vector<uint32_t> frameless_;  // where functions begin whose frames nothing reads; ascending
};

}  // namespace bpftime

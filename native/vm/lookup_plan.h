// SPDX-License-Identifier: MIT
// Which calls of bpf_map_lookup_elem become inline code, and which instructions before them are
// then not needed (the loads of the map and of the key's address).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "facts.h"
#include "flow.h"

namespace bpftime {

struct InlineLookup {
  uint32_t map_id = 0;
  bool is_hash = false;
  MapGeometry geometry;
  std::optional<uint32_t> key;     // the key, when it is a constant; only of arrays
  std::optional<int32_t> key_off;  // else its place below r10, when that is known; else r2
};

class LookupPlan {
 public:
  LookupPlan(const Flow& flow, const std::vector<uint16_t>& live, const CompileOptions& options);

  /// The plan for the call at `slot`; null if it is to be a call.
  [[nodiscard]] const InlineLookup* at(uint32_t slot) const;
  /// True if the instruction at `slot` only prepared an argument of an inlined lookup.
  [[nodiscard]] bool is_elided(uint32_t slot) const {
    return !elided_.empty() && elided_[slot] != 0;
  }

 private:
  std::vector<uint32_t> slots_;  // ascending, parallel to lookups_
  std::vector<InlineLookup> lookups_;
  std::vector<uint8_t> elided_;  // per slot; empty if nothing is inlined
};

}  // namespace bpftime

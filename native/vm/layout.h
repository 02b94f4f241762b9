// SPDX-License-Identifier: MIT
// In which order the compiler writes the blocks of a function: what a loop repeats stands together,
// so that a turn takes as few jumps as it can, and what leaves the loop stands behind it. A loop of
// one short block is written several times. A guess of speed and nothing else: every order is
// correct.
#pragma once

#include <cstdint>
#include <vector>

#include "flow.h"

namespace bpftime {

/// Slots [start, end) that are compiled one after another.
struct Segment {
  uint32_t start = 0;
  uint32_t end = 0;
};

/// Every reachable slot of `subprog`, that of its entry first. A segment that stands there again is
/// a further turn of the loop that the one before it is.
[[nodiscard]] std::vector<Segment> layout(const Flow& flow, const Subprog& subprog);

}  // namespace bpftime

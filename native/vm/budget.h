// SPDX-License-Identifier: MIT
// What one call of a program may use up. The interpreter and compiled code take instructions off a
// slice; who has used his up asks for more, which is when the clock is looked at. Compiled code has
// the address of a Budget in r12 and knows its first member.
#pragma once

#include <cstdint>

namespace bpftime {

struct Budget {
  int64_t left = 0;                   // of the slice; below 0: ask for more
  uint64_t insns_left = UINT64_MAX;   // behind the slice
  uint64_t deadline_ns = UINT64_MAX;  // CLOCK_MONOTONIC
  int errnum = 0;                     // EDQUOT, ETIMEDOUT: it is over

  /// The budget of a call that begins now. 0: no limit.
  static Budget of(uint64_t insns, uint64_t wall_ns);
};

/// Another slice, when `budget->left` went below 0. False: it is over, and stays so.
extern "C" uint64_t bpftime_budget_refill(Budget* budget);

}  // namespace bpftime

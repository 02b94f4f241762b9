// SPDX-License-Identifier: MIT
// Where tail calls may stand: what can be told without walking paths.
#pragma once

#include <cstdint>

#include "../flow.h"

namespace bpftime::verify {

struct TailCallRefusal {
  uint32_t slot = 0;
  const char* reason = nullptr;  // null: they are all fine
};

/// A tail call takes the place of the function that makes it, so no helper must be waiting for that
/// function's end.
[[nodiscard]] TailCallRefusal check_tail_calls(const Flow& flow);

}  // namespace bpftime::verify

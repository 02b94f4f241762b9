// SPDX-License-Identifier: MIT
// Registers that may still be read, for telling which differences between two states matter. Finer
// than live_after() of facts.h: helpers read what their contract says, functions what they read.
#pragma once

#include <cstdint>
#include <vector>

#include "../flow.h"
#include "contracts.h"

namespace bpftime::verify {

/// Per slot: bit r if some path from that instruction on reads register r before it is written.
[[nodiscard]] std::vector<uint16_t> live_before(const Flow& flow, const Contracts& contracts);

}  // namespace bpftime::verify

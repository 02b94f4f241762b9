// SPDX-License-Identifier: MIT
// What the verifier claims of each register before each instruction: the union over all paths. The
// checked interpreter holds programs to it; a compiler may rely on it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "state.h"

namespace bpftime::verify {

struct Claim {
  enum Is : uint8_t { kNothing, kOne, kMixed } is = kNothing;  // kMixed: no claim
  Kind kind = Kind::kUnset;
  bool maybe_null = false;
  uint32_t map = 0;    // as in Reg
  uint32_t bytes = 0;  // as in Reg
  Scalar num;

  void merge(const Reg& reg) {
    if (is == kNothing) {
      is = reg.is_set() ? kOne : kMixed;
      kind = reg.kind;
      maybe_null = reg.maybe_null;
      map = reg.map;
      bytes = reg.bytes;
      num = reg.num;
      return;
    }
    if (reg.kind != kind || reg.map != map || reg.bytes != bytes) is = kMixed;
    maybe_null |= reg.maybe_null;
    num = num.join(reg.num);
  }
};

struct Claims {
  struct AtSlot {
    bool is_reached = false;
    std::array<Claim, kRegs> regs;
  };
  std::vector<AtSlot> slots;
};

}  // namespace bpftime::verify

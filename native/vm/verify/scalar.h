// SPDX-License-Identifier: MIT
// Scalar: what is known of a 64-bit register that holds a number: the whole word, and its lower
// half by itself, because 32-bit instructions and branches speak of that alone. Sound as domain.h
// is.
#pragma once

#include <cstdint>

#include "../isa.h"
#include "domain.h"

namespace bpftime::verify {

struct Scalar {
  Domain<uint64_t> wide;
  Domain<uint32_t> low;

  static Scalar any() { return {}; }
  static Scalar constant(uint64_t v) {
    return {Domain<uint64_t>::constant(v), Domain<uint32_t>::constant(static_cast<uint32_t>(v))};
  }
  /// What a load of `bytes` bytes with zero extension may give.
  static Scalar sized(uint32_t bytes);
  /// From the whole word alone.
  static Scalar of(const Domain<uint64_t>& wide);
  /// From a 32-bit result, whose upper half is zero.
  static Scalar zero_extended(const Domain<uint32_t>& low);

  [[nodiscard]] bool is_const() const { return wide.is_const(); }
  [[nodiscard]] uint64_t const_value() const { return wide.value; }
  [[nodiscard]] bool is_any() const { return wide.is_any(); }
  [[nodiscard]] bool contains(uint64_t v) const {
    return wide.contains(v) && low.contains(static_cast<uint32_t>(v));
  }
  [[nodiscard]] bool includes(const Scalar& other) const {
    return wide.includes(other.wide) && low.includes(other.low);
  }
  [[nodiscard]] Scalar join(const Scalar& other) const {
    return {wide.join(other.wide), low.join(other.low)};
  }
  bool operator==(const Scalar&) const = default;

  /// Lets the two halves of the knowledge tighten each other. False: nothing is left.
  bool normalise();
};

/// Result of the ALU instruction `insn` (any but a move or a byte swap) on numbers.
[[nodiscard]] Scalar alu(const isa::Insn& insn, const Scalar& a, const Scalar& b);

/// Sign extension of the lowest `from_bits` bits, to 64 bits or (wide false) to 32.
[[nodiscard]] Scalar move_signed(const Scalar& a, int from_bits, bool wide);

/// Byte swap instructions (be, le, bswap).
[[nodiscard]] Scalar swap(const isa::Insn& insn, const Scalar& a);

/// The comparison that a branch opcode stands for.
[[nodiscard]] Compare compare_of(uint8_t jmp_op);

/// Keeps of both what can be when `*a compare *b` holds. False: it never does.
bool assume(Compare compare, bool is_wide, Scalar* a, Scalar* b);

}  // namespace bpftime::verify

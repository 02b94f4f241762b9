// SPDX-License-Identifier: MIT
// FrameState: what DWARF call frame instructions say about one place, as far as callers need it:
// the CFA, the return address and the frame pointer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "../abi/unwind.h"
#include "byte_reader.h"

namespace bpftime::unwind {

constexpr uint64_t kRegBp = 6, kRegSp = 7, kRegReturn = 16;

struct RegRule {
  enum Kind : uint8_t { kSame, kUndefined, kAtCfa, kExpression, kOther };
  Kind kind = kSame;
  int64_t off = 0;
  std::span<const uint8_t> expression;
};

struct FrameState {
  bool cfa_is_expression = false;
  uint64_t cfa_reg = kRegSp;
  int64_t cfa_off = 0;
  std::span<const uint8_t> cfa_expression;
  RegRule bp, return_addr;
};

struct CodeFactors {
  uint64_t code = 1;
  int64_t data = -8;
};

/// Runs instructions, and hands over each place at which they leave a state: its distance from the
/// start of the code.
class FrameProgram {
 public:
  FrameProgram(CodeFactors factors, const FrameState& initial)
      : factors_(factors), initial_(initial), state_(initial) {}

  /// False: an instruction is not known, or the bytes end too early.
  template <typename Emit>  // void(uint64_t off, const FrameState& state), before each advance
  bool run(std::span<const uint8_t> instructions, Emit emit) {
    ByteReader in(instructions);
    while (!in.at_end()) {
      const auto op = in.number<uint8_t>();
      const std::optional<uint64_t> advance = advance_of(op, &in);
      if (advance) {
        if (*advance != 0) emit(off_, state_);
        off_ += *advance;
        continue;
      }
      if (!execute(op, &in)) return false;
    }
    emit(off_, state_);
    return in.ok();
  }
  [[nodiscard]] const FrameState& state() const { return state_; }

 private:
  std::optional<uint64_t> advance_of(uint8_t op, ByteReader* in) const;
  bool execute(uint8_t op, ByteReader* in);
  bool define_cfa(uint8_t op, ByteReader* in);
  bool set_register(uint8_t op, ByteReader* in);
  RegRule* rule_of(uint64_t reg);

  CodeFactors factors_;
  FrameState initial_, state_;
  std::vector<FrameState> remembered_;
  uint64_t off_ = 0;
};

/// Turns states into rules; those that do not fit one get a struct unwind_wide, once each.
class RuleEncoder {
 public:
  explicit RuleEncoder(std::vector<unwind_wide>* wides) : wides_(wides) {}
  uint32_t encode(const FrameState& state);

 private:
  uint32_t encode_wide(const unwind_wide& wide);
  std::vector<unwind_wide>* wides_;
};

}  // namespace bpftime::unwind

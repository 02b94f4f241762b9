// SPDX-License-Identifier: MIT
// What type and line information says of a program: source lines for people, and the signatures of
// global functions. The bytes come from users: nothing in them is trusted, what makes no sense is
// as if it were not there.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "state.h"

namespace bpftime::verify {

struct DebugInfo;

/// One argument of a global function.
struct Parameter {
  enum Kind : uint8_t { kNumber, kContext, kMemory, kOther } kind = kOther;
  uint32_t bytes = 0;  // kMemory: what it points at
};

class Source {
 public:
  explicit Source(const DebugInfo& debug);

  /// "file.c:12 `text`" of the line that the instruction at `slot` came from; "" if nobody knows.
  [[nodiscard]] std::string where(uint32_t slot) const;
  /// Name of the function that begins at `slot`, or "".
  [[nodiscard]] std::string function_name(uint32_t slot) const;
  /// Arguments of the function that begins at `slot` if it is a global one and each is of a kind
  /// that a caller can be held to; other functions are walked anew at each call.
  [[nodiscard]] std::optional<std::vector<Parameter>> parameters(uint32_t slot) const;

 private:
  struct Line {
    uint32_t slot;
    uint32_t file_off;
    uint32_t line_off;
    uint32_t number;
  };
  struct Function {
    uint32_t slot;
    uint32_t type;
  };
  [[nodiscard]] std::string string_at(uint32_t off) const;
  [[nodiscard]] uint32_t word(uint64_t off) const;
  void index_types();
  [[nodiscard]] Parameter parameter_of(uint32_t type) const;
  [[nodiscard]] uint32_t size_of(uint32_t type) const;
  [[nodiscard]] uint32_t resolved(uint32_t type) const;
  [[nodiscard]] uint32_t function_type(uint32_t slot) const;

  std::span<const uint8_t> btf_;
  uint32_t strings_ = 0;  // offset in btf_
  uint32_t strings_end_ = 0;
  std::vector<uint32_t> types_;  // offset of each type in btf_, by id; 0 is void
  std::vector<Line> lines_;
  std::vector<Function> functions_;
};

/// What a register holds when a global function begins.
[[nodiscard]] Reg argument_of(const Parameter& parameter, uint32_t id);

}  // namespace bpftime::verify

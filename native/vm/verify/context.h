// SPDX-License-Identifier: MIT
// What r1 points at, by program type: one table. A further kind of program is a further row.
#pragma once

#include <cstdint>
#include <span>

namespace bpftime::verify {

/// A run of bytes of a context that programs may touch.
struct ContextField {
  enum Access : uint8_t { kRead, kReadWrite };
  enum Holds : uint8_t { kNumber, kData, kDataEnd };  // the last two: bounds of a packet
  uint32_t off = 0;
  uint32_t bytes = 0;
  Access access = kRead;
  Holds holds = kNumber;
};

struct Context {
  uint32_t prog_type = 0;  // BPF_PROG_TYPE_*
  const char* name = "";   // as a person knows it
  bool is_frame = false;   // begins a probe_frame: helpers may look behind the registers
  std::span<const ContextField> fields;
};

/// The row of a program type; for types that are not in the table one without any field, so that
/// programs that do not look at their context are fine.
[[nodiscard]] const Context& context_of(uint32_t prog_type);

/// The registers at a function's entry for a program that may answer in its place: what it writes
/// to those of arguments and results is what the function finds, or its caller.
[[nodiscard]] const Context& replace_context();

}  // namespace bpftime::verify

// SPDX-License-Identifier: MIT
// .eh_frame to rows of abi/unwind.h: for each piece of code, where its caller's address, stack
// pointer and frame pointer are. Pure: bytes in, rows out. Formats: Linux Standard Base, "Exception
// Frames"; DWARF 5, section 6.4.
//
// Input is hostile: time and memory grow with its size and no faster, every offset is checked, and
// what is not understood becomes rows that know nothing, which the runtime answers by frame
// pointers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "../abi/unwind.h"
#include "../base/result.h"

namespace bpftime::unwind {

constexpr uint32_t kRowsMax = 8'000'000;
constexpr uint32_t kCiesMax = 100'000;

/// Where a section lies, in addresses as linked.
struct EhFrameInput {
  std::span<const uint8_t> bytes;  // what follows an end mark is ignored
  uint64_t vaddr = 0;              // of bytes[0]
  uint64_t bias = 0;               // of the mapping that the bytes are from: for absolute pointers
  uint64_t text_start = 0, text_end = 0;  // code outside of these is not described
};

/// Where one entry of the tables begins and ends, and what its first instruction's frame is like.
struct CodePiece {
  uint64_t start = 0, end = 0;
  uint32_t first_rule = 0;  // abi/unwind.h

  /// Something lies on the stack where it begins: control comes there from the middle of a
  /// function, by a jump.
  [[nodiscard]] bool is_part() const;
};

struct UnwindRows {
  std::vector<unwind_row> rows;  // sorted by start; the last one knows nothing
  std::vector<unwind_wide> wides;
  std::vector<CodePiece> pieces;  // one for each FDE that became rows, sorted, none overlaps
  uint32_t unknown = 0;           // rows whose rules are not understood
  bool is_relocated = false;      // some pointer was absolute: the bytes are of one process alone
};

/// E2BIG: more than kRowsMax rows. A section that ends amid an entry gives what comes before it.
Result<UnwindRows> read_eh_frame(const EhFrameInput& input);

/// A struct unwind_table and what it points to, as they lie in memory.
std::vector<uint8_t> build_table(const UnwindRows& rows);

}  // namespace bpftime::unwind

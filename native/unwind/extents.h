// SPDX-License-Identifier: MIT
// Which pieces of code a module's unwind information tells apart, and which of them are called.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "elf_module.h"

namespace bpftime::unwind {

class Extents {
 public:
  Extents() = default;
  /// Of a module; none where it has no unwind information that we can read.
  explicit Extents(const ElfModule& module);
  /// The piece around an address of the process (or as linked, where the bias is 0).
  [[nodiscard]] std::optional<CodePiece> at(uint64_t addr) const;

 private:
  uint64_t bias_ = 0;
  std::vector<CodePiece> pieces_;  // as linked, in order, none overlaps
};

}  // namespace bpftime::unwind

// SPDX-License-Identifier: MIT
#include "extents.h"

#include <algorithm>

namespace bpftime::unwind {

bool CodePiece::is_part() const {
  const uint32_t kind = UNWIND_KIND(first_rule);
  return kind == UNWIND_BP || (kind == UNWIND_SP && UNWIND_OFFSET(first_rule) > 1);
}

Extents::Extents(const ElfModule& module) : bias_(module.bias) {
  Result<UnwindRows> rows = read_eh_frame(module.input());
  if (rows.ok()) pieces_ = std::move(rows->pieces);
}

std::optional<CodePiece> Extents::at(uint64_t addr) const {
  const uint64_t linked = addr - bias_;
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), linked,
                                [](uint64_t a, const CodePiece& one) { return a < one.start; });
  if (piece == pieces_.begin() || linked >= (--piece)->end) return std::nullopt;
  return CodePiece{piece->start + bias_, piece->end + bias_, piece->first_rule};
}

}  // namespace bpftime::unwind

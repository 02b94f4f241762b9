// SPDX-License-Identifier: MIT
// BranchIndex: where the rel32 branches of one piece of text lead, made once, asked many times.
//
// Looks at every byte offset, so it also sees code that no symbol names; a false alarm needs a
// random 32-bit match. Pure: bytes in, answers out.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace bpftime::rewrite {

class BranchIndex {
 public:
  /// `text`: at most 4 GiB, mapped at `text_addr`. Branches that leave the text are not kept.
  BranchIndex(std::span<const uint8_t> text, uint64_t text_addr);

  /// Where there may be branches that land strictly inside (site, site + len): bytes like theirs,
  /// wherever an instruction would have to begin. Those inside [skip_begin, skip_end) are left
  /// out: the function itself has been decoded properly.
  [[nodiscard]] std::vector<uint64_t> entering(uint64_t site, uint32_t len, uint64_t skip_begin,
                                               uint64_t skip_end) const;

 private:
  struct Branch {
    uint32_t to, from;  // offsets in the text
  };
  uint64_t text_addr_;
  std::vector<Branch> branches_;  // sorted by `to`
};

/// How far around a place instructions are decoded, with what it takes to be in step.
constexpr uint64_t kShortReachBefore = 640, kShortReachBehind = 160;

/// The same for branches of two bytes, which reach 127: too common as bytes to be found in text
/// that is not decoded. `near` are the bytes around the window, mapped at `near_addr`.
bool short_branch_enters(std::span<const uint8_t> near, uint64_t near_addr, uint64_t site,
                         uint32_t len, uint64_t skip_begin, uint64_t skip_end);

/// Whether an instruction may begin at `at`; `near` as above. Where a function may begin one may.
bool may_begin_at(std::span<const uint8_t> near, uint64_t near_addr, uint64_t at);

}  // namespace bpftime::rewrite

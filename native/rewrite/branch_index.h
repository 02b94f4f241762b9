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

  /// True when some branch lands strictly inside (site, site + len). Branches inside
  /// [skip_begin, skip_end) are ignored: the function itself has been decoded properly.
  [[nodiscard]] bool enters(uint64_t site, uint32_t len, uint64_t skip_begin,
                            uint64_t skip_end) const;

 private:
  struct Branch {
    uint32_t to, from;  // offsets in the text
  };
  uint64_t text_addr_;
  std::vector<Branch> branches_;  // sorted by `to`
};

}  // namespace bpftime::rewrite

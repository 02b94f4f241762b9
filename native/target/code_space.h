// SPDX-License-Identifier: MIT
// CodeSpace: which bytes of an arena are taken. Addresses only, nothing is dereferenced; first fit,
// neighbours grow together again.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace bpftime::target {

/// What is taken begins and ends at multiples of this.
constexpr uint64_t kGranule = 8;

class CodeSpace {
 public:
  CodeSpace() = default;
  CodeSpace(uint64_t addr, uint64_t bytes);

  /// The lowest free range of `bytes`, beginning at a multiple of `align` (a power of two).
  std::optional<uint64_t> take(uint64_t bytes, uint64_t align);
  /// The inverse of take(), with the same size.
  void give_back(uint64_t addr, uint64_t bytes);

  /// Free bytes just before `end`.
  [[nodiscard]] uint64_t free_at_end(uint64_t end) const;
  [[nodiscard]] uint64_t free_bytes() const { return free_bytes_; }

 private:
  std::map<uint64_t, uint64_t> free_;  // start → bytes; no two touch
  uint64_t free_bytes_ = 0;
};

}  // namespace bpftime::target

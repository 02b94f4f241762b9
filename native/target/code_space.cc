// SPDX-License-Identifier: MIT
#include "code_space.h"

#include <iterator>

namespace bpftime::target {

namespace {

uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) & ~(to - 1); }

}  // namespace

CodeSpace::CodeSpace(uint64_t addr, uint64_t bytes) { give_back(addr, bytes); }

std::optional<uint64_t> CodeSpace::take(uint64_t bytes, uint64_t align) {
  bytes = align_up(bytes, kGranule);
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const auto [start, size] = *it;
    const uint64_t at = align_up(start, align);
    if (at - start > size || size - (at - start) < bytes) continue;
    free_.erase(it);
    if (at > start) free_[start] = at - start;
    const uint64_t rest = size - (at - start) - bytes;
    if (rest > 0) free_[at + bytes] = rest;
    free_bytes_ -= bytes;
    return at;
  }
  return std::nullopt;
}

void CodeSpace::give_back(uint64_t addr, uint64_t bytes) {
  bytes = align_up(bytes, kGranule);
  free_bytes_ += bytes;
  auto next = free_.lower_bound(addr);
  if (next != free_.end() && addr + bytes == next->first) {
    bytes += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == addr) {
      before->second += bytes;
      return;
    }
  }
  free_[addr] = bytes;
}

uint64_t CodeSpace::free_at_end(uint64_t end) const {
  if (free_.empty()) return 0;
  const auto& [start, bytes] = *free_.rbegin();
  return start + bytes == end ? bytes : 0;
}

}  // namespace bpftime::target

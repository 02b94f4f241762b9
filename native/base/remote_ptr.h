// SPDX-License-Identifier: MIT
// RemotePtr<T>: an address in a target process. A type of its own so that it cannot be
// dereferenced here by accident; only native/target turns it into bytes.
#pragma once

#include <compare>
#include <cstdint>

namespace bpftime {

template <typename T>
class RemotePtr {
 public:
  constexpr RemotePtr() = default;
  constexpr explicit RemotePtr(uint64_t addr) : addr_(addr) {}
  [[nodiscard]] constexpr uint64_t addr() const { return addr_; }
  [[nodiscard]] constexpr bool is_null() const { return addr_ == 0; }
  constexpr RemotePtr operator+(int64_t bytes) const {
    return RemotePtr(addr_ + static_cast<uint64_t>(bytes));
  }
  friend constexpr auto operator<=>(const RemotePtr&, const RemotePtr&) = default;

 private:
  uint64_t addr_ = 0;
};

}  // namespace bpftime

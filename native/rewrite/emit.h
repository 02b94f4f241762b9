// SPDX-License-Identifier: MIT
// CodeBuffer: appends x86-64 bytes for code that will run at a known address.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

namespace bpftime::rewrite {

inline bool fits_rel32(uint64_t from_next, uint64_t to) {
  const int64_t distance = static_cast<int64_t>(to - from_next);
  return distance >= INT32_MIN && distance <= INT32_MAX;
}

class CodeBuffer {
 public:
  explicit CodeBuffer(uint64_t addr) : addr_(addr) {}

  [[nodiscard]] uint64_t here() const { return addr_ + bytes_.size(); }
  [[nodiscard]] uint32_t off() const { return static_cast<uint32_t>(bytes_.size()); }
  [[nodiscard]] bool ok() const { return ok_; }
  std::vector<uint8_t>& bytes() { return bytes_; }

  void put(std::initializer_list<int> bytes) {
    for (const int b : bytes) bytes_.push_back(static_cast<uint8_t>(b));
  }
  void put_bytes(const uint8_t* bytes, size_t size) {
    bytes_.insert(bytes_.end(), bytes, bytes + size);
  }
  void put_u32(uint32_t value) { put_bytes(reinterpret_cast<const uint8_t*>(&value), 4); }
  void put_u64(uint64_t value) { put_bytes(reinterpret_cast<const uint8_t*>(&value), 8); }

  /// A rel32 to an absolute target; `tail` = bytes of the instruction that follow the field.
  void put_rel32(uint64_t target, uint32_t tail = 0) {
    const uint64_t next = here() + 4 + tail;
    if (!fits_rel32(next, target)) ok_ = false;
    put_u32(static_cast<uint32_t>(target - next));
  }
  void jmp(uint64_t target) {
    put({0xe9});
    put_rel32(target);
  }
  /// Reserves a rel32 to be bound later; returns its offset.
  uint32_t put_rel32_later() {
    put_u32(0);
    return off() - 4;
  }
  void bind(uint32_t at, uint64_t target) {
    const uint64_t next = addr_ + at + 4;
    if (!fits_rel32(next, target)) ok_ = false;
    const uint32_t rel = static_cast<uint32_t>(target - next);
    memcpy(bytes_.data() + at, &rel, 4);
  }
  void align(uint32_t to) {
    while (bytes_.size() % to != 0) bytes_.push_back(0xcc);
  }

 private:
  uint64_t addr_;
  std::vector<uint8_t> bytes_;
  bool ok_ = true;
};

}  // namespace bpftime::rewrite

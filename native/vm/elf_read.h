// SPDX-License-Identifier: MIT
// Reading what may be damaged: records and texts of a file, with every offset checked.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>

namespace bpftime {

/// Record `index` of a table; nothing if it is not wholly there.
template <typename T>
std::optional<T> record_at(std::span<const uint8_t> bytes, uint64_t index) {
  if (index >= bytes.size() / sizeof(T)) return std::nullopt;
  T record;
  std::memcpy(&record, bytes.data() + index * sizeof(T), sizeof(T));
  return record;
}

/// The text at an offset of a table of them; "" if there is none.
inline std::string text_at(std::span<const uint8_t> strings, uint64_t off) {
  if (off >= strings.size()) return {};
  const auto* begin = reinterpret_cast<const char*>(strings.data()) + off;
  return {begin, strnlen(begin, strings.size() - off)};
}

}  // namespace bpftime

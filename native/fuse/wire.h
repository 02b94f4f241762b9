// SPDX-License-Identifier: MIT
// The FUSE wire protocol as this server speaks it: <linux/fuse.h> of Debian 12 (7.38) plus the few
// newer numbers, and one decoded request. Kernel side: fs/fuse/dev.c,
// Documentation/filesystems/fuse.rst.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "access.h"

namespace bpftime::fuse {

constexpr uint32_t kOpStatx = 52;      // 7.39
constexpr uint32_t kOpcodeCount = 64;  // beyond the last that we know
constexpr uint32_t kMinMinor = 31;     // Linux 5.4
constexpr uint32_t kMaxWriteBytes = 1 << 20;
constexpr uint32_t kMaxPages = kMaxWriteBytes / 4096;
constexpr size_t kReadBufferBytes = kMaxWriteBytes + 4096;

/// One request as read from /dev/fuse; valid until the next one is read.
struct Request {
  const fuse_in_header* header = nullptr;
  const char* body = nullptr;
  size_t size_bytes = 0;  // of the body

  [[nodiscard]] uint64_t unique() const { return header->unique; }
  [[nodiscard]] Caller caller() const {
    return {header->uid, header->gid, static_cast<int>(header->pid)};
  }
  /// The fixed part; the dispatch table has checked that it is there.
  template <typename T>
  [[nodiscard]] const T& arg() const {
    return *reinterpret_cast<const T*>(body);
  }
  /// The terminated string at `offset` of the body (empty when there is none).
  [[nodiscard]] std::string_view name(size_t offset = 0) const {
    if (offset >= size_bytes) return {};
    return {body + offset, strnlen(body + offset, size_bytes - offset)};
  }
};

}  // namespace bpftime::fuse

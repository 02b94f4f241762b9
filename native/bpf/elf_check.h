// SPDX-License-Identifier: MIT
// Is this file an eBPF object that libbpf may be given? Objects come from users: everything that
// libelf and libbpf take on trust (offsets, lengths, string ends, indices) is checked first.
// Pure: bytes in, verdict out.
#pragma once

#include <cstdint>
#include <span>

#include "../base/result.h"

namespace bpftime {

inline constexpr size_t kObjectBytesMax = 64u << 20;
inline constexpr size_t kObjectSectionsMax = 4096;

/// ENOEXEC with a reason that says what the file is instead; EFBIG over kObjectBytesMax.
Result<void> check_bpf_object(std::span<const uint8_t> file);

}  // namespace bpftime

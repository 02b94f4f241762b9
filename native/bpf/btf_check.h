// SPDX-License-Identifier: MIT
// Shape of .BTF and .BTF.ext, checked before libbpf follows any reference in them: every name,
// type id and length is inside, nothing contains itself by value. Pure: bytes in, verdict out.
#pragma once

#include <cstdint>
#include <span>

#include "../base/result.h"

namespace bpftime {

inline constexpr uint32_t kBtfTypesMax = 1u << 20;
inline constexpr uint32_t kBtfNestingMax = 64;  // by-value nesting and chains of modifiers

/// ENOEXEC and what is wrong. An empty `ext` is no .BTF.ext.
Result<void> check_btf(std::span<const uint8_t> btf, std::span<const uint8_t> ext);

}  // namespace bpftime

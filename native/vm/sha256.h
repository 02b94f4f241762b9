// SPDX-License-Identifier: MIT
// SHA-256 (FIPS 180-4), to recognise what a file was made from and whether it is whole.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace bpftime {

using Digest = std::array<uint8_t, 32>;

[[nodiscard]] Digest sha256(std::span<const uint8_t> bytes);

}  // namespace bpftime

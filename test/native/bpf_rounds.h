// SPDX-License-Identifier: MIT
// What the programs of same.bpf.c are called with, in the kernel and here.
#pragma once

#include <array>
#include <cstdint>

inline constexpr unsigned kRounds = 24;

inline std::array<uint64_t, 12> round_arguments(unsigned round) {
  std::array<uint64_t, 12> args{};
  args[0] = round;
  for (unsigned i = 1; i < args.size(); ++i) args[i] = uint64_t{round} * 0x9e3779b97f4a7c15u >> i;
  return args;
}

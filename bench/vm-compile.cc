// SPDX-License-Identifier: MIT
// How long compiling takes: microseconds for a program of 100 instructions, a line a sample. What
// mapping and binding the result takes is not in it (bench row enter.us has that).
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <vector>

#include "vm/asm.h"
#include "vm/vm.h"

namespace {

constexpr int kSamples = 25;
constexpr int kRounds = 200;

double now_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

/// Nine instructions of what probes consist of, eleven times, and an exit.
std::vector<uint64_t> program() {
  std::string text;
  for (int i = 0; i < 11; ++i) {
    const std::string label = "over" + std::to_string(i);
    text += "r2 = *(u64 *)(r1 + 112)\nr3 = r2\nr3 += 8\n*(u64 *)(r10 - 8) = r3\n";
    text += "r4 = *(u64 *)(r10 - 8)\nif r4 == 0 goto " + label + "\n";
    text += "r4 <<= 3\nr0 = r4\nr0 ^= r2\n" + label + ":\n";
  }
  return bpftime::assemble(text + "exit\n").slots;
}

}  // namespace

int main() {
  const std::vector<uint64_t> slots = program();
  if (slots.size() != 100) return 1;
  for (int sample = 0; sample < kSamples; ++sample) {
    const double begin = now_us();
    for (int i = 0; i < kRounds; ++i) {
      if (!bpftime::compile(slots).ok()) return 1;
    }
    std::printf("%.3f\n", (now_us() - begin) / kRounds);
  }
  return 0;
}

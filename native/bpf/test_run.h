// SPDX-License-Identifier: MIT
// Running a loaded program once in this process: BPF_PROG_TEST_RUN and tests.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "registry.h"

namespace bpftime {

enum class Engine : uint8_t { kJit, kInterpreter, kChecked };

struct TestRun {
  std::span<const uint8_t> ctx;  // copied to the front of a zeroed probe_frame
  uint32_t repeat = 1;
  Engine engine = Engine::kJit;
};

struct TestResult {
  uint64_t retval = 0;
  uint32_t duration_ns = 0;  // mean of all runs
  uint64_t total_ns = 0;     // of all runs together
  std::vector<uint8_t> ctx;  // as the program left it
};

/// Instructions that one run of the checked interpreter may take.
inline constexpr uint64_t kCheckedInsnsMax = 1000000000;

/// E2BIG: context over a page; ENOENT: the image names a helper or map that is not here; ENOMEM;
/// EFAULT: the checked interpreter stopped the program, which the verifier had accepted.
Result<TestResult> test_run(const ProgObject& prog, const TestRun& run);

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// The whole of our native test framework: TAP on stdout, exit status 1 if anything failed.
#pragma once

#include <cstdio>
#include <string_view>

namespace tap {

inline int count = 0;
inline int failed = 0;

inline bool ok(bool passed, const char* name) {
  std::printf("%sok %d - %s\n", passed ? "" : "not ", ++count, name);
  if (!passed) failed++;
  return passed;
}

inline bool equal(long long got, long long want, const char* name) {
  if (ok(got == want, name)) return true;
  std::printf("# got %lld (%#llx), want %lld (%#llx)\n", got, static_cast<unsigned long long>(got),
              want, static_cast<unsigned long long>(want));
  return false;
}

inline bool equal(std::string_view got, std::string_view want, const char* name) {
  if (ok(got == want, name)) return true;
  std::printf("# got '%.*s', want '%.*s'\n", static_cast<int>(got.size()), got.data(),
              static_cast<int>(want.size()), want.data());
  return false;
}

inline int done() {
  std::printf("1..%d\n", count);
  return failed == 0 ? 0 : 1;
}

}  // namespace tap

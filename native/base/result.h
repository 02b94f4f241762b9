// SPDX-License-Identifier: MIT
// Result<T>: a value, or an errno with a static reason. The only error channel of the native code:
// no exceptions, no errno globals, no formatted text (sentences are written in TypeScript).
#pragma once

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <utility>

namespace bpftime {

/// Why something failed: a positive errno and a static string (never freed, never formatted).
struct Failure {
  int errnum = EIO;
  const char* reason = "unspecified";
};

[[nodiscard]] constexpr Failure fail(int errnum, const char* reason) {
  return Failure{errnum, reason};
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}   // NOLINT: implicit by design
  Result(Failure failure) : failure_(failure) {}  // NOLINT: implicit by design

  [[nodiscard]] bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Failure& error() const { return failure_; }
  T& value() {
    if (!ok()) std::abort();
    return *value_;
  }
  const T& value() const {
    if (!ok()) std::abort();
    return *value_;
  }
  T& operator*() { return value(); }
  T* operator->() { return &value(); }

 private:
  std::optional<T> value_;
  Failure failure_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() : ok_(true) {}
  Result(Failure failure) : ok_(false), failure_(failure) {}  // NOLINT: implicit by design

  [[nodiscard]] bool ok() const { return ok_; }
  explicit operator bool() const { return ok_; }
  [[nodiscard]] const Failure& error() const { return failure_; }

 private:
  bool ok_;
  Failure failure_;
};

}  // namespace bpftime

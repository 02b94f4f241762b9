// SPDX-License-Identifier: MIT
// LoadedImage: a ProgramImage mapped into this process, ready to be called. The text is written
// into a memfd and mapped read-execute; it is at no time writable and executable. The GOT behind
// it is filled once and then read-only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../base/result.h"
#include "image.h"
#include "vm.h"

namespace bpftime {

class LoadedImage {
 public:
  /// Fails with ENOENT (`resolver` answers 0 for a slot), ENOMEM, or what memfd_create says.
  static Result<LoadedImage> map(const ProgramImage& image, const Resolver& resolver);

  LoadedImage(LoadedImage&& other) noexcept;
  LoadedImage& operator=(LoadedImage&& other) noexcept;
  LoadedImage(const LoadedImage&) = delete;
  LoadedImage& operator=(const LoadedImage&) = delete;
  ~LoadedImage();

  /// Runs the program with r1 = ctx and r2 = ctx_bytes; returns r0. Any number of threads.
  uint64_t run(void* ctx, uint64_t ctx_bytes = 0) const {
    return reinterpret_cast<uint64_t (*)(void*, uint64_t)>(entry_)(ctx, ctx_bytes);
  }
  [[nodiscard]] const void* entry() const { return entry_; }
  [[nodiscard]] const void* text() const { return base_; }

 private:
  LoadedImage(std::byte* base, size_t mapped_bytes) : base_(base), mapped_bytes_(mapped_bytes) {}
  Result<void> fill(const ProgramImage& image, const Resolver& resolver);

  std::byte* base_ = nullptr;
  size_t mapped_bytes_ = 0;
  std::byte* entry_ = nullptr;
};

}  // namespace bpftime

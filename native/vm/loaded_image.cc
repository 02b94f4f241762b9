// SPDX-License-Identifier: MIT
#include "loaded_image.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "../base/scoped_fd.h"

namespace bpftime {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr unsigned kMemfdExec = 0x10;  // MFD_EXEC, since Linux 6.3: asks for what older ones give

size_t page_up(size_t bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

Result<ScopedFd> text_file(const ProgramImage& image) {
  ScopedFd fd(memfd_create("bpftime-text", MFD_CLOEXEC | kMemfdExec));
  if (!fd.valid()) fd.reset(memfd_create("bpftime-text", MFD_CLOEXEC));
  if (!fd.valid()) return fail(errno, "cannot create a memory file for program text");
  if (ftruncate(fd.get(), static_cast<off_t>(image.got_off())) != 0) {
    return fail(errno, "cannot size the memory file for program text");
  }
  size_t done = 0;
  while (done < image.text.size()) {
    const ssize_t n = pwrite(fd.get(), image.text.data() + done, image.text.size() - done,
                             static_cast<off_t>(done));
    if (n <= 0) return fail(errno, "cannot write program text");
    done += static_cast<size_t>(n);
  }
  return fd;
}

}  // namespace

Result<LoadedImage> LoadedImage::map(const ProgramImage& image, const Resolver& resolver) {
  const size_t mapped_bytes = image.got_off() + page_up(image.got.size() * 8);
  void* base = mmap(nullptr, mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return fail(ENOMEM, "no room for a program");
  LoadedImage loaded(static_cast<std::byte*>(base), mapped_bytes);
  const Result<void> filled = loaded.fill(image, resolver);
  if (!filled.ok()) return filled.error();
  return loaded;
}

Result<void> LoadedImage::fill(const ProgramImage& image, const Resolver& resolver) {
  Result<ScopedFd> fd = text_file(image);
  if (!fd.ok()) return fd.error();
  if (mmap(base_, image.got_off(), PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd->get(), 0) ==
      MAP_FAILED) {
    return fail(errno, "cannot map program text");
  }
  entry_ = base_ + image.entry_off;
  if (image.got.empty()) return {};
  std::byte* const got = base_ + image.got_off();
  const size_t got_bytes = page_up(image.got.size() * 8);
  if (mprotect(got, got_bytes, PROT_READ | PROT_WRITE) != 0) {
    return fail(ENOMEM, "no room for a program's table of addresses");
  }
  auto* slots = reinterpret_cast<uint64_t*>(got);
  for (size_t i = 0; i < image.got.size(); ++i) {
    slots[i] = resolver(image.got[i]);
    if (slots[i] == 0) return fail(ENOENT, "the program names a helper or map that does not exist");
  }
  if (mprotect(got, got_bytes, PROT_READ) != 0) {
    return fail(errno, "cannot protect a program's table of addresses");
  }
  return {};
}

LoadedImage::LoadedImage(LoadedImage&& other) noexcept { *this = std::move(other); }

LoadedImage& LoadedImage::operator=(LoadedImage&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(entry_, other.entry_);
  return *this;
}

LoadedImage::~LoadedImage() {
  if (base_ != nullptr) munmap(base_, mapped_bytes_);
}

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// Strings read from memory that may end anywhere: every alignment, length and
// size of a buffer, up to the last byte of a page behind which nothing is. By
// plain loads (word by word) and by the kernel: both say the same, and what a
// simple loop says.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
#include "../../native/vm/rt/guard.h"
#include "../../native/vm/rt/helpers.h"
}
#include "tap.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kRoom = 64;  // of the buffer; kBorder bytes on each side are nobody's
constexpr size_t kBorder = 16;
constexpr uint8_t kUntouched = 0xaa;
constexpr long kFault = -14;  // -EFAULT
int faults = 0;

// What the agent does in a process.
void on_fault(int, siginfo_t*, void* context) {
  auto& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  if (rip < reinterpret_cast<greg_t>(rt_guard_begin) ||
      rip >= reinterpret_cast<greg_t>(rt_guard_end)) {
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  ++faults;
  rip = reinterpret_cast<greg_t>(rt_guard_fixup);
}

struct Outcome {
  long result;
  std::vector<uint8_t> bytes;
  bool operator==(const Outcome&) const = default;
};

// `there`: how many bytes of memory there are from `text` on.
Outcome expected(const uint8_t* text, size_t there, size_t size) {
  std::vector<uint8_t> bytes(kRoom + 2 * kBorder, kUntouched);
  uint8_t* out = bytes.data() + kBorder;
  for (size_t i = 0; i < size; ++i) {
    if (i == there) {
      memset(out, 0, size);
      return {kFault, bytes};
    }
    out[i] = text[i];
    if (text[i] == 0) return {static_cast<long>(i + 1), bytes};
  }
  out[size - 1] = 0;
  return {static_cast<long>(size), bytes};
}

Outcome got(const uint8_t* text, size_t size, uint32_t mode) {
  rt_env.guard_mode = mode;
  std::vector<uint8_t> bytes(kRoom + 2 * kBorder, kUntouched);
  const long result =
      rt_read_user_str(bytes.data() + kBorder, reinterpret_cast<uint64_t>(text), size);
  return {result, bytes};
}

// A string of `length` bytes, whose NUL (if there is room for it) ends `left`
// bytes before the end of the page. `length` may be more than there is room
// for: then it has no end.
int wrong_at(uint8_t* page, size_t length, size_t left, uint32_t mode) {
  memset(page, 'x', kPage);
  const size_t end = kPage - left;
  uint8_t* text = page + end - length - 1;
  for (size_t i = 0; i < length; ++i)
    text[i] = static_cast<uint8_t>('a' + i % 26) | (i % 3 ? 0x80 : 0);
  text[length] = 0;
  int wrong = 0;
  for (size_t size = 1; size <= kRoom; ++size) {
    const size_t there = static_cast<size_t>(page + kPage - text);
    if (got(text, size, mode) != expected(text, there, size)) ++wrong;
  }
  return wrong;
}

// Nothing but letters up to the end of the page.
int wrong_without_end(uint8_t* page, size_t there, uint32_t mode) {
  memset(page, 'x', kPage);
  const uint8_t* text = page + kPage - there;
  int wrong = 0;
  for (size_t size = 1; size <= kRoom; ++size) {
    if (got(text, size, mode) != expected(text, there, size)) ++wrong;
  }
  return wrong;
}

}  // namespace

int main() {
  rt_env_init_hosted();
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, nullptr);
  void* pages =
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* page = static_cast<uint8_t*>(pages);
  munmap(page + kPage, kPage);
  for (const uint32_t mode : {1u, 0u}) {
    const std::string how = mode == 1 ? "by words" : "by the kernel";
    int wrong = 0;
    for (size_t length = 0; length <= 40; ++length) {
      for (size_t left = 0; left < 9; ++left) wrong += wrong_at(page, length, left, mode);
    }
    tap::equal(wrong, 0, (how + ": strings at every alignment, into every size").c_str());
    if (mode == 1) tap::equal(faults, 0, "no page is touched that no string reaches");
    wrong = 0;
    for (size_t there = 1; there <= 70; ++there) wrong += wrong_without_end(page, there, mode);
    tap::equal(wrong, 0, (how + ": text without an end, up to the end of memory").c_str());
    if (mode == 1) tap::ok(faults > 1000, "which faults where it has to");
    tap::ok(got(page + kPage, 8, mode) == expected(page, 0, 8),
            (how + ": nothing is there").c_str());
    const auto* kernel = reinterpret_cast<const uint8_t*>(~uint64_t{0} - 100);
    tap::ok(got(kernel, 8, mode) == expected(page, 0, 8), (how + ": the kernel's memory").c_str());
  }
  return tap::done();
}

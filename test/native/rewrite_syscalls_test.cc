// SPDX-License-Identifier: MIT
// Where functions make system calls, and which: bytes in, sites out, as text.
//   +OFFSET NUMBER|? FRONT [window] [unreached]
// FRONT is +OFFSET of the instruction in front of which a jump diverts the
// call, or `-`; `window`: rax holds the number only behind the instructions
// that the jump takes.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "rewrite/syscall_sites.h"
#include "tap.h"

namespace {

using namespace bpftime;           // NOLINT: a test
using namespace bpftime::rewrite;  // NOLINT: a test

constexpr uint64_t kAddr = 0x400000;
constexpr uint64_t kColdAddr = kAddr + 0x100;  // a part that the compiler put elsewhere

struct Case {
  const char* name;
  std::vector<uint8_t> bytes, cold;
  const char* expected;
};

std::string text_of(const std::vector<SyscallSite>& sites) {
  std::string text;
  for (const SyscallSite& site : sites) {
    if (!text.empty()) text += "; ";
    text += "+" + std::to_string(site.addr - kAddr) + " ";
    text += site.number == kUnknownCall ? "?" : std::to_string(site.number);
    text += site.front == 0 ? " -" : " +" + std::to_string(site.front - kAddr);
    if (site.is_set_in_window) text += " window";
    if (!site.is_reached) text += " unreached";
  }
  return text;
}

std::string sites_in(const Case& one) {
  const auto read = [&](uint64_t addr, void* out, size_t size) {
    if (addr < kColdAddr || addr + size > kColdAddr + one.cold.size()) return false;
    memcpy(out, one.cold.data() + (addr - kColdAddr), size);
    return true;
  };
  const auto size = static_cast<uint32_t>(one.bytes.size());
  Result<FunctionView> function = decode_function(kAddr, size, one.bytes, read);
  return function.ok() ? text_of(find_syscalls(*function, read)) : "not decoded";
}

const Case kCases[] = {
    {"no call", {0xc3}, {}, ""},
    {"mov eax, 39", {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3}, {}, "+5 39 +0"},
    {"mov rax, 14: seven bytes", {0x48, 0xc7, 0xc0, 14, 0, 0, 0, 0x0f, 0x05, 0xc3}, {}, "+7 14 +0"},
    {"xor eax, eax: the jump takes what stands before it",
     {0xbf, 1, 0, 0, 0, 0x31, 0xc0, 0x0f, 0x05, 0xc3},
     {},
     "+7 0 +0"},
    {"mov ecx, 9; mov eax, ecx: through another register",
     {0xb9, 9, 0, 0, 0, 0x89, 0xc8, 0x0f, 0x05, 0xc3},
     {},
     "+7 9 +0"},
    {"mov eax, 1; mov edi, 2: the mov of the number itself",
     {0xb8, 1, 0, 0, 0, 0xbf, 2, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {},
     "+10 1 +0"},
    {"mov eax, 256; mov al, 3: half of a number is none",
     {0xb8, 0, 1, 0, 0, 0xb0, 3, 0x0f, 0x05, 0xc3},
     {},
     "+7 ? -"},
    {"an argument in rax: the last place where a jump fits",
     {0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05, 0xc3},
     {},
     "+11 ? +6"},
    {"mov eax, [rdi]; mov rdi, rsi: set by what the jump takes",
     {0x8b, 0x07, 0x48, 0x89, 0xf7, 0x0f, 0x05, 0xc3},
     {},
     "+5 ? +0 window"},
    {"mov r8d, 1; mov eax, [rdi]: set behind what the jump takes",
     {0x41, 0xb8, 1, 0, 0, 0, 0x8b, 0x07, 0x0f, 0x05, 0xc3},
     {},
     "+8 ? -"},
    {"two numbers come to one call",
     {0xb8, 1, 0, 0, 0, 0x85, 0xff, 0x74, 0x05, 0xb8, 2, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {},
     "+14 ? -"},
    {"two ways with one number: nothing that both of them pass has room",
     {0xb8, 3, 0, 0, 0, 0x85, 0xff, 0x74, 0x05, 0xbf, 1, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {},
     "+14 3 -"},
    {"behind a call rax is anything",
     {0xb8, 5, 0, 0, 0, 0xe8, 0, 0x10, 0, 0, 0x0f, 0x05, 0xc3},
     {},
     "+10 ? -"},
    {"behind a call with a number of its own",
     {0xe8, 0, 0x10, 0, 0, 0xb8, 5, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {},
     "+10 5 +5"},
    {"a loop: the second time rax is what the kernel left there",
     {0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xfc},
     {},
     "+5 ? -"},
    {"a loop that sets it anew", {0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7}, {}, "+5 1 +0"},
    {"two calls",
     {0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0xb8, 2, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {},
     "+5 1 +0; +12 2 +7"},
    {"the second call begins where the kernel left rax",
     {0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x05, 0xc3},
     {},
     "+5 1 +0; +7 ? -"},
    {"what no known jump reaches may be data",
     {0xc3, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, 0xf4},
     {},
     "+6 60 +1 unreached"},
    {"a part elsewhere comes back with another number",
     // test edi, edi; jnz cold; mov eax, 14; syscall; ret | mov eax, 15; jmp
     // back to the syscall
     {0x85, 0xff, 0x0f, 0x85, 0xf8, 0, 0, 0, 0xb8, 14, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {0xb8, 15, 0, 0, 0, 0xe9, 0x03, 0xff, 0xff, 0xff},
     "+13 ? -"},
    {"a part elsewhere comes back with the same number, past the front",
     {0x85, 0xff, 0x0f, 0x85, 0xf8, 0, 0, 0, 0xb8, 14, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {0xb8, 14, 0, 0, 0, 0xe9, 0x03, 0xff, 0xff, 0xff},
     "+13 14 -"},
    {"a part elsewhere comes back in front of it",
     {0x85, 0xff, 0x0f, 0x85, 0xf8, 0, 0, 0, 0xb8, 14, 0, 0, 0, 0x0f, 0x05, 0xc3},
     {0x89, 0xf7, 0xe9, 0x01, 0xff, 0xff, 0xff},
     "+13 14 +8"},
};

}  // namespace

int main() {
  for (const Case& one : kCases) tap::equal(sites_in(one), one.expected, one.name);
  return tap::done();
}

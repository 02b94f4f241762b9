// SPDX-License-Identifier: MIT
// Every relocatable entry and every return of libc is executed twice with the same random
// registers, once where it was linked and once relocated, one instruction at a time under ptrace;
// registers, flags, the stack and the place where control goes next must be equal. Also states how
// many functions can be probed.
#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "rewrite/emit.h"
#include "rewrite/exit_plan.h"
#include "symbols/elf_symbols.h"
#include "tap.h"
#include "target/proc_maps.h"

namespace {

using namespace bpftime;           // NOLINT: a test
using namespace bpftime::rewrite;  // NOLINT: a test

constexpr uint64_t kCopyBytes = 256;
constexpr uint64_t kStackBytes = 64 << 10;
constexpr uint64_t kWordsCompared = 32;
constexpr int kStepsMax = 64;

struct Work {
  std::string name;
  SitePlan plan;
  uint64_t copy = 0;
  std::vector<uint8_t> code;
};

struct Outcome {
  user_regs_struct regs{};
  int signal = 0;
  std::vector<uint64_t> stack;
};

uint64_t next_random(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

// Instructions whose results are not a function of the registers.
bool is_comparable(const FunctionView& function, const SitePlan& plan) {
  for (uint32_t i = 0; i < plan.count; ++i) {
    const Insn& insn = function.insns[plan.first + i];
    const uint8_t* b = function.bytes.data() + insn.off;
    for (int k = 0; k + 1 < insn.len; ++k) {
      if (b[k] == 0x0f && (b[k + 1] == 0x05 || b[k + 1] == 0x31 || b[k + 1] == 0xa2 ||
                           b[k + 1] == 0x01 || b[k + 1] == 0xc7)) {
        return false;  // syscall rdtsc cpuid xgetbv/rdtscp rdrand/rdpid
      }
    }
  }
  return true;
}

Outcome run(pid_t child, uint64_t at, uint64_t begin, uint64_t end, uint64_t stack, uint64_t seed) {
  user_regs_struct regs{};
  ptrace(PTRACE_GETREGS, child, nullptr, &regs);
  uint64_t state = seed;
  unsigned long long* general[] = {&regs.rax, &regs.rbx, &regs.rcx, &regs.rdx, &regs.rsi,
                                   &regs.rdi, &regs.rbp, &regs.r8,  &regs.r9,  &regs.r10,
                                   &regs.r11, &regs.r12, &regs.r13, &regs.r14, &regs.r15};
  for (auto* reg : general) {
    // Half of the values are valid addresses, so that loads and stores happen.
    const uint64_t value = next_random(&state);
    *reg = (value & 1) != 0 ? value : stack + value % (kStackBytes / 2);
  }
  regs.rsp = stack + kStackBytes - 4096 - 8;
  regs.rip = at;
  regs.orig_rax = ~0ull;
  regs.eflags = 0x202;
  std::vector<uint64_t> fill(kStackBytes / 8);
  for (auto& word : fill) word = next_random(&state);
  const iovec local{fill.data(), kStackBytes};
  const iovec remote{reinterpret_cast<void*>(stack), kStackBytes};
  process_vm_writev(child, &local, 1, &remote, 1, 0);
  ptrace(PTRACE_SETREGS, child, nullptr, &regs);
  Outcome out;
  for (int step = 0; step < kStepsMax; ++step) {
    int status = 0;
    ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr);
    waitpid(child, &status, 0);
    ptrace(PTRACE_GETREGS, child, nullptr, &out.regs);
    out.signal = WSTOPSIG(status);
    if (out.signal != SIGTRAP) break;
    if (out.regs.rip < begin || out.regs.rip >= end) break;
  }
  out.stack.resize(kWordsCompared);
  const iovec to{out.stack.data(), kWordsCompared * 8};
  const iovec from{reinterpret_cast<void*>(stack + kStackBytes - 4096 - 8 - 128), to.iov_len};
  process_vm_readv(child, &to, 1, &from, 1, 0);
  return out;
}

// Where the original would be when the copy is at `rip`.
bool same_place(const Work& work, const std::vector<PcPair>& map, uint64_t original,
                uint64_t copy) {
  if (original == copy) return true;
  for (const PcPair& pair : map) {
    if (original == work.plan.site + pair.old_off && copy == work.copy + pair.new_off) return true;
  }
  return false;
}

struct Libc {
  std::string path;
  uint64_t bias = 0, text = 0, text_end = 0;
};

Libc find_libc() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&qsort), &info);
  Libc libc;
  libc.path = info.dli_fname;
  libc.bias = reinterpret_cast<uint64_t>(info.dli_fbase);
  const auto regions = target::read_regions(getpid());
  for (const target::Region& region : regions.value()) {
    if (region.exec && region.path.ends_with("libc.so.6")) {
      libc.text = region.start;
      libc.text_end = region.end;
    }
  }
  return libc;
}

}  // namespace

int main() {
  const Libc libc = find_libc();
  const auto elf = symbols::read_elf_symbols(libc.path.c_str(), "/usr/lib/debug");
  if (!tap::ok(elf.ok() && libc.text != 0, "libc and its symbols are found")) return tap::done();
  const auto regions = target::read_regions(getpid());
  const size_t arena_bytes = elf.value().symbols.size() * 4 * kCopyBytes;
  const auto hole =
      target::find_hole(regions.value(), libc.text, libc.text_end, (arena_bytes + 4095) & ~4095ull);
  if (!tap::ok(hole.has_value(), "room for the copies within reach")) return tap::done();
  auto* arena = static_cast<uint8_t*>(
      mmap(reinterpret_cast<void*>(*hole), arena_bytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  auto* stack =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const auto reader = [](uint64_t addr, void* out, size_t size) {
    const iovec local{out, size};
    const iovec remote{reinterpret_cast<void*>(addr), size};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size);
  };
  std::vector<Work> works;
  std::vector<std::vector<PcPair>> maps;
  std::map<std::string, int> refused;
  int functions = 0, returning = 0, returning_by_ret = 0;
  size_t exit_count = 0;
  uint64_t last = 0;
  for (const symbols::Symbol& symbol : elf.value().symbols) {
    const uint64_t addr = libc.bias + symbol.vaddr;
    if (symbol.kind != symbols::SymbolKind::kFunction || addr == last || symbol.size == 0) continue;
    if (addr < libc.text || addr + symbol.size + 16 > libc.text_end) continue;
    last = addr;
    ++functions;
    const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(addr), symbol.size + 16);
    const auto function = decode_function(addr, static_cast<uint32_t>(symbol.size), bytes, reader);
    const auto plan =
        function.ok() ? plan_site(function.value(), addr) : Result<SitePlan>(function.error());
    std::vector<SitePlan> windows;
    if (plan.ok()) windows.push_back(plan.value());
    const bool returns =
        function.ok() && std::any_of(function.value().insns.begin(), function.value().insns.end(),
                                     [](const Insn& insn) { return insn.is_ret; });
    SitePlan none;
    none.site = addr;
    const auto exits = function.ok() ? plan_exits(function.value(), plan.ok() ? plan.value() : none)
                                     : Result<ExitPlan>(function.error());
    if (exits.ok()) {
      windows.insert(windows.end(), exits.value().exits.begin(), exits.value().exits.end());
      exit_count += exits.value().exits.size();
    }
    returning += returns ? 1 : 0;
    returning_by_ret += returns && exits.ok() ? 1 : 0;
    if (!plan) ++refused[plan.error().reason];
    for (const SitePlan& window : windows) {
      const uint64_t copy = reinterpret_cast<uint64_t>(arena) + works.size() * kCopyBytes;
      const auto code = works.size() < arena_bytes / kCopyBytes
                            ? relocate(function.value(), window, copy)
                            : Result<RelocatedCode>(fail(ENOSPC, "no room for the test"));
      if (!code) {
        ++refused[code.error().reason];
        continue;
      }
      if (!is_comparable(function.value(), window)) continue;
      memcpy(reinterpret_cast<void*>(copy), code.value().code.data(), code.value().code.size());
      works.push_back(
          Work{elf.value().names.c_str() + symbol.name, window, copy, code.value().code});
      maps.push_back(code.value().map);
    }
  }
  mprotect(arena, arena_bytes, PROT_READ | PROT_EXEC);
  int refusals = 0;
  for (const auto& [reason, count] : refused) {
    printf("# refused %d: %s\n", count, reason.c_str());
    refusals += count;
  }
  printf("# %d functions, %d refused, %zu compared\n", functions, refusals, works.size());
  printf("# %d functions return, %d (%.1f %%) by rets with room: %zu exits\n", returning,
         returning_by_ret, 100.0 * returning_by_ret / returning, exit_count);
  tap::ok(returning_by_ret * 100 >= returning * 80, "four fifths of them return by such rets");
  tap::ok(functions > 1000, "libc has functions");
  tap::ok(refusals * 100 <= functions, "at least 99 % of them take a jump");

  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  int different = 0;
  for (size_t i = 0; i < works.size(); ++i) {
    const Work& work = works[i];
    const uint64_t seed = 0x9e3779b97f4a7c15ull * (i + 1);
    const auto area = reinterpret_cast<uint64_t>(stack);
    const Outcome a =
        run(child, work.plan.site, work.plan.site, work.plan.site + work.plan.window, area, seed);
    const Outcome b = run(child, work.copy, work.copy, work.copy + work.code.size(), area, seed);
    user_regs_struct x = a.regs, y = b.regs;
    const bool place = same_place(work, maps[i], x.rip, y.rip);
    x.rip = y.rip = x.orig_rax = y.orig_rax = 0;
    if (place && a.signal == b.signal && memcmp(&x, &y, sizeof x) == 0 && a.stack == b.stack)
      continue;
    ++different;
    printf("# %s: signal %d/%d, at %#llx/%#llx\n", work.name.c_str(), a.signal, b.signal,
           a.regs.rip, b.regs.rip);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  tap::equal(different, 0, "each relocated entry and exit does what the original does");
  return tap::done();
}

// SPDX-License-Identifier: MIT
// Every relocatable entry of libc and node and every return of libc is executed twice with the same
// random registers, once where it was linked and once relocated, one instruction at a time under
// ptrace; registers, flags, the stack and the place where control goes next must be equal. Also
// states how many functions can be probed.
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
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

bool is_same(const Work& work, const std::vector<PcPair>& map, const Outcome& original,
             const Outcome& copy) {
  user_regs_struct x = original.regs, y = copy.regs;
  const bool place = same_place(work, map, x.rip, y.rip);
  x.rip = y.rip = x.orig_rax = y.orig_rax = 0;
  return place && original.signal == copy.signal && memcmp(&x, &y, sizeof x) == 0 &&
         original.stack == copy.stack;
}

struct Module {
  std::string path;
  uint64_t bias = 0, text = 0, text_end = 0;
};

Module find_libc() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&qsort), &info);
  Module libc;
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

// The program that runs the tests, else the system's.
std::string node_path() {
  char path[4096];
  const std::string parent = "/proc/" + std::to_string(getppid()) + "/exe";
  const ssize_t length = readlink(parent.c_str(), path, sizeof path);
  const std::string_view exe(path, length > 0 ? static_cast<size_t>(length) : 0);
  return exe.ends_with("/node") ? std::string(exe) : "/usr/bin/node";
}

// Maps node's segments where they are linked to be, or anywhere if that is up to us. Nothing of it
// is initialised: only a few instructions of each function will run. No text: it cannot be mapped.
Module map_node() {
  Module node;
  node.path = node_path();
  const int fd = open(node.path.c_str(), O_RDONLY | O_CLOEXEC);
  Elf64_Ehdr header{};
  if (pread(fd, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header)) return node;
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  const size_t bytes = segments.size() * sizeof(Elf64_Phdr);
  if (pread(fd, segments.data(), bytes, static_cast<off_t>(header.e_phoff)) !=
      static_cast<ssize_t>(bytes)) {
    return node;
  }
  constexpr uint64_t kPage = 4096, kAnywhere = uint64_t{1} << 32;
  node.bias = header.e_type == ET_DYN ? kAnywhere : 0;
  for (const Elf64_Phdr& one : segments) {
    if (one.p_type != PT_LOAD) continue;
    const uint64_t skip = one.p_vaddr % kPage;
    const int protection = PROT_READ | ((one.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
                           ((one.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
    void* const at = reinterpret_cast<void*>(node.bias + one.p_vaddr - skip);
    if (mmap(at, one.p_filesz + skip, protection, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd,
             static_cast<off_t>(one.p_offset - skip)) != at) {
      return node;
    }
    const uint64_t file_end = (one.p_vaddr + one.p_filesz + kPage - 1) & ~(kPage - 1);
    if (one.p_vaddr + one.p_memsz > file_end) {
      mmap(reinterpret_cast<void*>(node.bias + file_end), one.p_vaddr + one.p_memsz - file_end,
           protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    }
    if ((one.p_flags & PF_X) == 0 || one.p_filesz <= node.text_end - node.text) continue;
    node.text = node.bias + one.p_vaddr;
    node.text_end = node.text + one.p_filesz;
  }
  close(fd);
  return node;
}

struct Counts {
  int functions = 0, returning = 0, returning_by_ret = 0, refusals = 0;
  size_t exits = 0;
};

// Plans, relocates and compares a module; `with_exits`: its returns, too.
Counts compare(const char* what, const Module& module, bool with_exits) {
  Counts counts;
  const auto elf = symbols::read_elf_symbols(module.path.c_str(), "/usr/lib/debug");
  if (!tap::ok(elf.ok() && module.text != 0, "it and its symbols are found")) return counts;
  const auto regions = target::read_regions(getpid());
  const size_t arena_bytes = elf.value().symbols.size() * (with_exits ? 4 : 1) * kCopyBytes;
  const auto hole = target::find_hole(regions.value(), module.text, module.text_end,
                                      (arena_bytes + 4095) & ~4095ull);
  if (!tap::ok(hole.has_value(), "room for the copies within reach")) return counts;
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
  uint64_t last = 0;
  for (const symbols::Symbol& symbol : elf.value().symbols) {
    const uint64_t addr = module.bias + symbol.vaddr;
    if (symbol.kind != symbols::SymbolKind::kFunction || addr == last || symbol.size == 0) continue;
    if (addr < module.text || addr + symbol.size + 16 > module.text_end) continue;
    last = addr;
    ++counts.functions;
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
    if (exits.ok() && with_exits) {
      windows.insert(windows.end(), exits.value().exits.begin(), exits.value().exits.end());
      counts.exits += exits.value().exits.size();
    }
    counts.returning += returns ? 1 : 0;
    counts.returning_by_ret += returns && exits.ok() ? 1 : 0;
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
  for (const auto& [reason, count] : refused) {
    printf("# refused %d: %s\n", count, reason.c_str());
    counts.refusals += count;
  }
  printf("# %s: %d functions, %d refused, %zu compared\n", what, counts.functions, counts.refusals,
         works.size());
  printf("# %d functions return, %d (%.1f %%) by rets with room: %zu exits\n", counts.returning,
         counts.returning_by_ret, 100.0 * counts.returning_by_ret / counts.returning, counts.exits);

  const pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
  int different = 0, changing = 0;
  for (size_t i = 0; i < works.size(); ++i) {
    const Work& work = works[i];
    const uint64_t seed = 0x9e3779b97f4a7c15ull * (i + 1);
    const auto area = reinterpret_cast<uint64_t>(stack);
    const auto original = [&] {
      return run(child, work.plan.site, work.plan.site, work.plan.site + work.plan.window, area,
                 seed);
    };
    const Outcome a = original();
    const Outcome b = run(child, work.copy, work.copy, work.copy + work.code.size(), area, seed);
    if (is_same(work, maps[i], a, b)) continue;
    // What changes a variable that it reads does something else each time.
    if (!is_same(work, maps[i], a, original())) {
      ++changing;
      continue;
    }
    ++different;
    printf("# %s: signal %d/%d, at %#llx/%#llx\n", work.name.c_str(), a.signal, b.signal,
           a.regs.rip, b.regs.rip);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  printf("# %d do something else each time\n", changing);
  tap::ok(changing * 1000 <= counts.functions, "few cannot be compared");
  munmap(arena, arena_bytes);
  munmap(stack, kStackBytes);
  tap::equal(different, 0, "each relocated entry and exit does what the original does");
  return counts;
}

}  // namespace

int main() {
  const Counts libc = compare("libc", find_libc(), true);
  tap::ok(libc.returning_by_ret * 100 >= libc.returning * 80, "four fifths return by such rets");
  tap::ok(libc.functions > 1000, "libc has functions");
  tap::ok(libc.refusals * 100 <= libc.functions, "at least 99 % of them take a jump");
  const Counts node = compare("node", map_node(), false);
  tap::ok(node.functions > 10'000, "node has functions");
  tap::ok(node.refusals * 100 <= node.functions, "at least 99 % of them take a jump");
  return tap::done();
}

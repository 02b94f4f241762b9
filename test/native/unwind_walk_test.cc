// SPDX-License-Identifier: MIT
// Stacks of this very process by unwind tables of its own modules, against backtrace(3) of libgcc,
// address by address: built without frame pointers, through libc, signal handlers, exceptions,
// realigned and variable-sized frames, threads, and code that no table knows.
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <vector>

#include "abi/frame.h"
#include "tap.h"
#include "target/proc_maps.h"
#include "target/unwind_tables.h"
#include "unwind/eh_frame.h"
#include "vm/rt/helpers.h"
#include "vm/rt/unwind.h"

namespace {

using namespace bpftime;

constexpr int kFramesMax = 100;

unwind_index modules;
std::deque<std::vector<uint8_t>> tables;

bool read_here(uint64_t addr, void* out, size_t size) {
  const int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  const ssize_t got = pread(fd, out, size, static_cast<off_t>(addr));
  close(fd);
  return got == static_cast<ssize_t>(size);
}

void look_at_modules() {
  const uint32_t half = (modules.generation + 1) & 1;
  u32 count = 0;
  const auto regions = target::read_regions(getpid());
  for (const target::CodeMapping& mapping : target::code_mappings(regions.value())) {
    const auto elf = unwind::read_elf_module(mapping.file_start, read_here);
    if (!elf) continue;
    unwind_module& entry = modules.modules[half][count++];
    entry = {};
    entry.start = mapping.start;
    entry.end = mapping.end;
    entry.bias = elf.value().bias;
    const auto rows = unwind::read_eh_frame(elf.value().input());
    if (!rows) continue;
    tables.push_back(unwind::build_table(rows.value()));
    entry.table = reinterpret_cast<u64>(tables.back().data());
    std::printf("# %s: %zu functions, %zu rows, %zu wide, %u unknown, %zu bytes of %zu\n",
                mapping.file_off == 0 ? "vdso" : "module", rows.value().pieces.size(),
                rows.value().rows.size(), rows.value().wides.size(), rows.value().unknown,
                tables.back().size(), elf.value().eh_frame.size());
  }
  modules.counts[half] = count;
  modules.generation++;
}

probe_frame frame_of(const ucontext_t& at) {
  probe_frame frame{};
  const greg_t* regs = at.uc_mcontext.gregs;
  const auto reg = [&](int index) { return static_cast<u64>(regs[index]); };
  frame.regs.r15 = reg(REG_R15);
  frame.regs.r14 = reg(REG_R14);
  frame.regs.r13 = reg(REG_R13);
  frame.regs.r12 = reg(REG_R12);
  frame.regs.bp = reg(REG_RBP);
  frame.regs.bx = reg(REG_RBX);
  frame.regs.ip = reg(REG_RIP);
  frame.regs.sp = reg(REG_RSP);
  frame.func_ip = frame.regs.ip;
  return frame;
}

const char* expected_of;
int failures;

// Compares from the caller of this function on.
__attribute__((noinline)) void check() {
  ucontext_t here;
  void* theirs[kFramesMax];
  u64 ours[kFramesMax];
  getcontext(&here);
  const probe_frame frame = frame_of(here);
  const u32 our_count = rt_stack_walk(&frame, 0, ours, kFramesMax);
  const int count = backtrace(theirs, kFramesMax);
  // A bottom that ends with an address that is none (threads of old) is left out by us.
  int same = 1;
  while (same < count && same < static_cast<int>(our_count) &&
         ours[same] == reinterpret_cast<u64>(theirs[same])) {
    ++same;
  }
  if (same == count && static_cast<int>(our_count) == count && count > 2) return;
  ++failures;
  std::printf("# %s: %d frames of %u and %d\n", expected_of, same, our_count, count);
  for (int i = 0; i < count || i < static_cast<int>(our_count); ++i) {
    std::printf("#   %p %p\n",
                i < static_cast<int>(our_count) ? reinterpret_cast<void*>(ours[i]) : nullptr,
                i < count ? theirs[i] : nullptr);
  }
}

void done(const char* name) {
  tap::equal(failures, 0, name);
  failures = 0;
}

#define FRAME __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls")))
volatile long sink;

FRAME long leaf(long n) {
  check();
  sink = n;
  return n;
}
FRAME long deep(long n) {
  char room[40 + 8];
  memset(room, static_cast<int>(n), sizeof room);
  sink = room[n & 7];
  return n == 0 ? leaf(n) : deep(n - 1) + room[3];
}

FRAME int compare(const void* a, const void* b) {
  check();
  return *static_cast<const int*>(a) - *static_cast<const int*>(b);
}
FRAME void through_libc() {
  int numbers[] = {3, 1, 2, 5, 4};
  qsort(numbers, 5, sizeof numbers[0], compare);
  sink = numbers[0];
}

FRAME long realigned(long n) {
  alignas(64) volatile char line[128];
  line[0] = static_cast<char>(n);
  auto* room = static_cast<volatile char*>(__builtin_alloca(static_cast<size_t>(n) + 16));
  room[0] = line[0];
  check();
  return room[0] + line[0];
}

void on_signal(int) { check(); }
FRAME void through_signal() {
  raise(SIGUSR1);
  sink = 1;
}
FRAME void through_fault() {
  __asm__ volatile("movl $1, 16" ::: "memory");  // the handler goes on behind it
  sink = 2;
}
void on_fault(int, siginfo_t*, void* context) {
  check();
  auto* at = static_cast<ucontext_t*>(context);
  at->uc_mcontext.gregs[REG_RIP] += 11;
}

struct Checks {
  ~Checks() { check(); }
};
FRAME void throws(long n) {
  Checks while_unwinding;
  if (n >= 0) throw std::runtime_error("n");
  sink = n;
}
FRAME void through_exception(long n) {
  try {
    throws(n);
  } catch (const std::runtime_error&) {
    check();
  }
}

void* in_thread(void*) {
  deep(5);
  return nullptr;
}

// push rbp; mov rbp, rsp; call rdi; pop rbp; ret
FRAME void through_unknown() {
  static constexpr uint8_t kCode[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(page, kCode, sizeof kCode);
  mprotect(page, 4096, PROT_READ | PROT_EXEC);
  static void* theirs[kFramesMax];
  static u64 ours[kFramesMax];
  static u32 our_count;
  const int count = backtrace(theirs, kFramesMax);
  reinterpret_cast<void (*)(void (*)())>(page)([] {
    ucontext_t here;
    getcontext(&here);
    const probe_frame frame = frame_of(here);
    our_count = rt_stack_walk(&frame, 0, ours, kFramesMax);
  });
  tap::equal(static_cast<long long>(ours[1]), reinterpret_cast<long long>(page) + 6,
             "code without a table is found by the return address");
  tap::equal(our_count, count + 2, "and left by its frame pointer");
  bool is_same = our_count > 3;
  for (u32 i = 3; i < our_count; ++i) is_same &= ours[i] == reinterpret_cast<u64>(theirs[i - 2]);
  tap::ok(is_same, "to where its caller's callers are");
}

// An entry probe: the first instruction of a function, with nothing pushed.
FRAME void at_entry(ucontext_t* here) {
  u64 ours[kFramesMax];
  void* theirs[kFramesMax];
  getcontext(here);
  const int count = backtrace(theirs, kFramesMax);
  probe_frame frame = frame_of(*here);
  u64 slot[1] = {reinterpret_cast<u64>(theirs[0])};
  frame.regs.sp -= 8;  // as if this function had called one without tables
  memcpy(reinterpret_cast<void*>(frame.regs.sp), slot, sizeof slot);
  frame.regs.ip = frame.func_ip = reinterpret_cast<u64>(&leaf);
  const u32 our_count = rt_stack_walk(&frame, 0, ours, kFramesMax);
  tap::equal(our_count, count + 1, "a probe at a function's first instruction");
  u64 skipped[kFramesMax];
  const u32 left = rt_stack_walk(&frame, 2, skipped, 3);
  tap::ok(left == 3 && memcmp(skipped, ours + 2, 3 * sizeof(u64)) == 0, "frames are skipped");
}

FRAME void time_it(long n) {
  if (n > 0) {
    time_it(n - 1);
    sink = n;
    return;
  }
  ucontext_t here;
  u64 ours[kFramesMax];
  getcontext(&here);
  const probe_frame frame = frame_of(here);
  rt_env.guard_mode = 1;  // no read of it faults
  timespec begin{}, end{};
  u32 frames = 0;
  constexpr int kRounds = 2000;
  for (int round = -kRounds / 10; round < kRounds; ++round) {
    if (round == 0) {
      clock_gettime(CLOCK_MONOTONIC, &begin);
      frames = 0;
    }
    frames += rt_stack_walk(&frame, 0, ours, kFramesMax);
  }
  clock_gettime(CLOCK_MONOTONIC, &end);
  rt_env.guard_mode = 0;
  const double ns = static_cast<double>(end.tv_sec - begin.tv_sec) * 1e9 +
                    static_cast<double>(end.tv_nsec - begin.tv_nsec);
  std::printf("# %.1f ns a frame, %u frames a stack\n", ns / frames, frames / kRounds);
}

}  // namespace

int main(int argc, char**) {
  rt_env_init_hosted();
  look_at_modules();
  void* warm[2];
  backtrace(warm, 2);
  // libgcc came, perhaps; and the second half of the index is used.
  look_at_modules();
  rt_env.unwind_index = reinterpret_cast<u64>(&modules);
  expected_of = "functions";
  deep(argc + 6);
  done("functions without frame pointers");
  expected_of = "qsort";
  through_libc();
  done("through libc");
  expected_of = "realigned";
  realigned(argc + 100);
  done("frames that are aligned, or grow while they run");
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGUSR1, &action, nullptr);
  expected_of = "signal";
  through_signal();
  done("through a signal handler");
  static char stack[64 << 10];
  const stack_t other{stack, 0, sizeof stack};
  sigaltstack(&other, nullptr);
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  expected_of = "fault";
  through_fault();
  done("through one on a stack of its own, to the instruction that faulted");
  expected_of = "exception";
  through_exception(argc);
  done("behind an exception and while it passes");
  pthread_t thread;
  expected_of = "thread";
  pthread_create(&thread, nullptr, in_thread, nullptr);
  pthread_join(thread, nullptr);
  done("a thread's, to its end");
  through_unknown();
  ucontext_t here;
  at_entry(&here);
  time_it(30);
  rt_env.unwind_index = 0;
  std::printf("# what follows has to fail\n");
  deep(argc + 6);
  tap::ok(failures > 0, "without tables the same stack is not found");
  return tap::done();
}

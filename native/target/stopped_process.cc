// SPDX-License-Identifier: MIT
#include "stopped_process.h"

#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <unordered_set>

#include "proc_maps.h"
#include "remote_thread.h"

namespace bpftime::target {

namespace {

constexpr int kRoundsMax = 64;
constexpr uint64_t kRedZoneBytes = 128;
constexpr uint64_t kVdsoFrameWords = 64;
constexpr uint64_t kUserSelectors = 0x002b000000000033;
constexpr uint64_t kStackScanBytesMax = uint64_t{8} << 20;

uint64_t now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(ts.tv_nsec);
}

bool in_ranges(uint64_t value, const std::vector<std::pair<uint64_t, uint64_t>>& ranges) {
  return std::any_of(ranges.begin(), ranges.end(), [value](const auto& range) {
    return value >= range.first && value < range.second;
  });
}

// A copy of one stack, from the red zone up, and the questions asked of it.
struct StackView {
  uint64_t sp;
  const std::vector<uint64_t>* words;
  const std::vector<std::pair<uint64_t, uint64_t>>* ranges;
  std::pair<uint64_t, uint64_t> vdso;

  // At `pc` with `stack_pointer`: in our code, or in the vDSO called from our code.
  [[nodiscard]] bool inside(uint64_t pc, uint64_t stack_pointer) const {
    if (in_ranges(pc, *ranges)) return true;
    if (pc < vdso.first || pc >= vdso.second || stack_pointer < sp) return false;
    const size_t first = (stack_pointer - sp) / 8;
    for (size_t i = first; i < words->size() && i < first + kVdsoFrameWords; ++i) {
      if (in_ranges((*words)[i], *ranges)) return true;
    }
    return false;
  }

  // Signal frames on this stack: struct sigcontext keeps rsp, rip, eflags and the selectors
  // (cs 0x33, gs 0, fs 0, ss 0x2b) in four consecutive words, which nothing else looks like.
  [[nodiscard]] bool interrupted_inside() const {
    for (size_t i = 0; i + 3 < words->size(); ++i) {
      if ((*words)[i + 3] == kUserSelectors && inside((*words)[i + 1], (*words)[i])) return true;
    }
    return false;
  }
};

}  // namespace

Result<std::unique_ptr<StoppedProcess>> StoppedProcess::stop(pid_t pid) {
  reap_late_stops();
  std::unique_ptr<StoppedProcess> process(new StoppedProcess(pid));
  process->started_ns_ = now_ns();
  const Result<void> stopped = process->stop_all();
  if (!stopped) return stopped.error();
  return process;
}

Result<void> StoppedProcess::stop_all() {
  std::unordered_set<pid_t> known;
  for (int round = 0; round < kRoundsMax; ++round) {
    const std::vector<pid_t> tids = read_threads(pid_);
    if (tids.empty()) return fail(ESRCH, "the process ended");
    std::vector<pid_t> fresh;
    std::copy_if(tids.begin(), tids.end(), std::back_inserter(fresh),
                 [&](pid_t tid) { return known.insert(tid).second; });
    // A list without news, read while all known threads stand still, is complete: nobody is left
    // who could have created one more.
    if (fresh.empty()) {
      return threads_.empty() ? Result<void>(fail(ESRCH, "the process ended")) : Result<void>();
    }
    const Result<void> stopped = stop_these(fresh);
    if (!stopped) return stopped;
  }
  return fail(ETIMEDOUT, "the process creates threads faster than they can be stopped");
}

// Asks all of them first, so that they stop side by side. ESRCH is no failure: a thread may end
// between the list and the stop.
Result<void> StoppedProcess::stop_these(const std::vector<pid_t>& tids) {
  std::vector<pid_t> asked;
  Result<void> failure;
  for (const pid_t tid : tids) {
    const Result<void> one = seize_and_interrupt(tid);
    if (one.ok()) asked.push_back(tid);
    if (!one && one.error().errnum != ESRCH) {
      failure = one;
      break;
    }
  }
  for (const pid_t tid : asked) {
    if (!failure) {
      forget_interrupted(tid);
      continue;
    }
    const Result<void> one = wait_stopped(tid, kStopTimeoutMs);
    if (!one) {
      if (one.error().errnum != ESRCH) failure = one;
      continue;
    }
    Thread thread;
    thread.tid = tid;
    if (ptrace(PTRACE_GETREGS, tid, nullptr, &thread.regs) == 0) {
      threads_.push_back(thread);
    } else {
      forget_interrupted(tid);
    }
  }
  return failure;
}

StoppedProcess::~StoppedProcess() {
  for (const Thread& thread : threads_) release_thread(thread.tid, thread.regs, thread.dirty);
}

// The stack of one thread from `sp` to the end of its mapping, as far as it can be read.
std::vector<uint64_t> StoppedProcess::copy_stack(const Thread& thread, uint64_t sp) const {
  const auto stack_end = [&] {
    for (const Region& region : regions_) {
      if (region.start <= thread.regs.rsp && thread.regs.rsp < region.end) return region.end;
    }
    return uint64_t{0};
  };
  uint64_t end = stack_end();
  if (end == 0) {
    // Not told, or this stack is younger than what we were told.
    Result<std::vector<Region>> regions = read_regions(thread.tid);
    if (!regions) return {};
    regions_ = std::move(regions.value());
    end = stack_end();
  }
  end = std::min(end, sp + kStackScanBytesMax);
  std::vector<uint64_t> stack(end > sp ? (end - sp) / 8 : 0);
  const iovec local{stack.data(), stack.size() * 8};
  const iovec remote{reinterpret_cast<void*>(sp), stack.size() * 8};
  const ssize_t got = process_vm_readv(thread.tid, &local, 1, &remote, 1, 0);
  stack.resize(got > 0 ? static_cast<size_t>(got) / 8 : 0);
  return stack;
}

bool StoppedProcess::anyone_inside(const std::vector<std::pair<uint64_t, uint64_t>>& ranges) const {
  for (const Thread& thread : threads_) {
    const uint64_t sp = (thread.regs.rsp - kRedZoneBytes) & ~uint64_t{7};
    const std::vector<uint64_t> stack = copy_stack(thread, sp);
    std::pair<uint64_t, uint64_t> vdso{0, 0};
    for (const Region& region : regions_) {
      if (region.path == "[vdso]") vdso = {region.start, region.end};
    }
    const StackView view{sp, &stack, &ranges, vdso};
    if (view.inside(thread.regs.rip, thread.regs.rsp) || view.interrupted_inside()) return true;
  }
  return false;
}

std::vector<std::pair<uint64_t, uint64_t>> StoppedProcess::interrupted_at(uint64_t begin,
                                                                          uint64_t end) const {
  std::vector<std::pair<uint64_t, uint64_t>> found;
  for (const Thread& thread : threads_) {
    const uint64_t sp = (thread.regs.rsp - kRedZoneBytes) & ~uint64_t{7};
    const std::vector<uint64_t> stack = copy_stack(thread, sp);
    for (size_t i = 0; i + 3 < stack.size(); ++i) {
      const uint64_t pc = stack[i + 1];
      if (stack[i + 3] != kUserSelectors || pc < begin || pc >= end) continue;
      found.emplace_back(sp + (i + 1) * 8, pc);
    }
  }
  return found;
}

uint64_t StoppedProcess::elapsed_ns() const { return now_ns() - started_ns_; }

}  // namespace bpftime::target

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
constexpr uint64_t kProgramFrameWords = 2048;  // 8 frames of 512 bytes, their saves, a helper's
constexpr size_t kForeignStacksMax = 4096;
constexpr uint64_t kUserSelectors = 0x002b000000000033;
constexpr uint64_t kStackScanBytesMax = uint64_t{8} << 20;
constexpr size_t kPageBytes = 4096;
constexpr size_t kStacksAtOnce = 512;  // less than IOV_MAX

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

// Memory for copies of stacks, kept: a page that we touch for the first time while everybody waits
// costs as much as reading a stack.
uint64_t* stack_buffer(size_t bytes) {
  thread_local std::unique_ptr<uint64_t[]> words;
  thread_local size_t capacity = 0;
  if (bytes > capacity) {
    words.reset(new uint64_t[bytes / 8]);
    capacity = bytes;
  }
  return words.get();
}

}  // namespace

// A copy of one stack, from the red zone up, and the questions asked of it.
struct StoppedProcess::Stack {
  const Thread* thread;
  uint64_t sp;
  const uint64_t* words;
  size_t count;

  // Calls `matches(where the frame keeps its rip, rip, rsp)` for each signal frame on this stack:
  // struct sigcontext keeps rsp, rip, eflags and the selectors (cs 0x33, gs 0, fs 0, ss 0x2b) in
  // four consecutive words, which nothing else looks like.
  template <typename Matches>
  [[nodiscard]] bool any_signal_frame(Matches matches) const {
    for (size_t i = 3; i < count; ++i) {
      if (words[i] != kUserSelectors) continue;
      if (matches(sp + (i - 2) * 8, words[i - 2], words[i - 3])) return true;
    }
    return false;
  }
};

Result<std::unique_ptr<StoppedProcess>> StoppedProcess::stop(pid_t pid) {
  reap_late_stops();
  std::unique_ptr<StoppedProcess> process(new StoppedProcess(pid));
  const Result<void> stopped = process->stop_all();
  if (!stopped) return stopped.error();
  return process;
}

Result<void> StoppedProcess::stop_all() {
  std::unordered_set<pid_t> known;
  for (int round = 0; round < kRoundsMax; ++round) {
    const std::vector<pid_t> tids = read_threads(pid_);
    if (tids.empty()) return fail(ESRCH, "the process ended");
    std::vector<pid_t> fresh, seized;
    std::copy_if(tids.begin(), tids.end(), std::back_inserter(fresh),
                 [&](pid_t tid) { return known.insert(tid).second; });
    // A list without news, read while all known threads stand still, is complete: nobody is left
    // who could have created one more.
    if (fresh.empty()) {
      return threads_.empty() ? Result<void>(fail(ESRCH, "the process ended")) : Result<void>();
    }
    Result<void> step = seize_these(fresh, &seized);
    for (size_t page = 0; page < fresh.size(); ++page) {
      stack_buffer(fresh.size() * kPageBytes)[page * kPageBytes / 8] = 0;
    }
    if (started_ns_ == 0) started_ns_ = now_ns();
    const Result<void> stopped = stop_these(seized);
    if (step.ok()) step = stopped;
    if (!step) return step;
    // So does the count of those that stand still, which is all that exist: the usual case. A
    // leader that has ended counts too; then the list decides.
    if (thread_count_.now() == threads_.size()) return {};
  }
  return fail(ETIMEDOUT, "the process creates threads faster than they can be stopped");
}

Result<StoppedProcess::Visit> StoppedProcess::visit(
    pid_t pid, const std::vector<pid_t>& only,
    const std::vector<std::pair<uint64_t, uint64_t>>& ranges, const Tell& tell) {
  reap_late_stops();
  const UrgentScope urgent;
  Visit found;
  std::unordered_set<pid_t> known;
  // A thread that is created meanwhile begins inside if the system call that creates it stands
  // there: until a list brings no news, somebody may be missed.
  for (int round = 0; round < kRoundsMax; ++round) {
    std::vector<pid_t> tids = only.empty() ? read_threads(pid) : only;
    if (tids.empty()) return fail(ESRCH, "the process ended");
    std::erase_if(tids, [&](pid_t tid) { return !known.insert(tid).second; });
    if (tids.empty()) return found;
    for (const pid_t tid : tids) {
      StoppedProcess one(pid);
      tell(&one);
      std::vector<pid_t> seized;
      Result<void> step = one.seize_these({tid}, &seized);
      one.started_ns_ = now_ns();
      if (step.ok()) step = one.stop_these(seized);
      if (!step) return step.error();
      if (one.threads_.empty()) continue;
      const std::vector<uint64_t> here = one.code_pointers(ranges, &found.who);
      found.longest_ns = std::max(found.longest_ns, one.release());
      found.pointers.insert(found.pointers.end(), here.begin(), here.end());
    }
  }
  return fail(ETIMEDOUT, "the process creates threads faster than they can be looked at");
}

// ESRCH is no failure: a thread may end between the list and the stop.
Result<void> StoppedProcess::seize_these(const std::vector<pid_t>& tids,
                                         std::vector<pid_t>* seized) {
  for (const pid_t tid : tids) {
    const Result<void> one = seize(tid);
    if (one.ok()) seized->push_back(tid);
    if (!one && one.error().errnum != ESRCH) return one;
  }
  return {};
}

// Asks all of them first, so that they stop side by side.
Result<void> StoppedProcess::stop_these(const std::vector<pid_t>& seized) {
  std::vector<pid_t> asked;
  asked.reserve(seized.size());
  for (const pid_t tid : seized) {
    if (interrupt(tid).ok()) asked.push_back(tid);
  }
  threads_.reserve(threads_.size() + asked.size());
  Result<void> failure;
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

StoppedProcess::~StoppedProcess() { release(); }

uint64_t StoppedProcess::release() {
  for (const Thread& thread : threads_) release_thread(thread.tid, thread.regs, thread.dirty);
  threads_.clear();
  return now_ns() - started_ns_;
}

// What the g of a Go thread says of the stack on which it runs; 0: nothing (the thread is not Go's,
// or runs on another stack). runtime.g begins with stack.lo and stack.hi.
uint64_t StoppedProcess::go_stack_end(const Thread& thread) const {
  const auto read = [&](uint64_t at, void* out, size_t size) {
    const iovec local{out, size};
    const iovec remote{reinterpret_cast<void*>(at), size};
    return process_vm_readv(thread.tid, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size);
  };
  const uint64_t slot = thread.regs.fs_base + static_cast<uint64_t>(*g_offset_);
  uint64_t g = 0, bounds[2] = {0, 0};
  if (!read(slot, &g, sizeof g) || !read(g, bounds, sizeof bounds)) return 0;
  const uint64_t sp = thread.regs.rsp;
  return bounds[0] <= sp && sp < bounds[1] ? bounds[1] : 0;
}

// Where the frames of a thread's stack end at the latest; 0: not known. glibc and musl keep what
// the thread pointer points at, some kilobytes, at the top of the stacks that they make.
uint64_t StoppedProcess::stack_end(const Thread& thread) const {
  const uint64_t sp = thread.regs.rsp;
  if (g_offset_) {
    const uint64_t end = go_stack_end(thread);
    if (end != 0) return end;
  }
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto above =
        std::upper_bound(regions_.begin(), regions_.end(), sp,
                         [](uint64_t addr, const Region& region) { return addr < region.end; });
    if (above != regions_.end() && above->start <= sp) {
      uint64_t end = above->end;
      for (const uint64_t top : {uint64_t{thread.regs.fs_base}, main_stack_}) {
        if (sp < top && top < end) end = top;
      }
      return end;
    }
    // Not told, or this stack is younger than what we were told.
    if (attempt == 1) break;
    Result<std::vector<Region>> regions = read_regions(thread.tid);
    if (!regions) return 0;
    regions_ = std::move(regions.value());
  }
  return 0;
}

// Shows `matches` the stack of each thread as far as it can be read, until one matches. Many stacks
// are read by one call: everybody waits for this.
bool StoppedProcess::any_stack(const std::function<bool(const Stack&)>& matches) const {
  for (size_t first = 0; first < threads_.size();) {
    std::vector<Stack> stacks;
    std::vector<iovec> remote;
    size_t bytes = 0, skipped = 0;
    for (size_t i = first; i < threads_.size() && stacks.size() < kStacksAtOnce; ++i) {
      if (!threads_[i].runs_code()) {
        ++skipped;
        continue;
      }
      const uint64_t sp = (threads_[i].regs.rsp - kRedZoneBytes) & ~uint64_t{7};
      const uint64_t end = std::min(stack_end(threads_[i]), sp + scan_bytes_max_);
      const size_t size = end > sp ? end - sp : 0;
      if (!stacks.empty() && bytes + size > kStackScanBytesMax) break;
      stacks.push_back({&threads_[i], sp, nullptr, size / 8});
      remote.push_back({reinterpret_cast<void*>(sp), size});
      bytes += size;
    }
    uint64_t* const words = stack_buffer(bytes);
    const iovec local{words, bytes};
    const pid_t reader = threads_[first].tid;  // the leader may have ended
    const ssize_t all = process_vm_readv(reader, &local, 1, remote.data(), remote.size(), 0);
    uint64_t* at = words;
    for (size_t i = 0; i < stacks.size(); ++i) {
      stacks[i].words = at;
      at += stacks[i].count;
      if (all != static_cast<ssize_t>(bytes)) {
        // One of them could not be read to its end: each on its own.
        const iovec own{const_cast<uint64_t*>(stacks[i].words), remote[i].iov_len};
        const ssize_t got = process_vm_readv(reader, &own, 1, &remote[i], 1, 0);
        stacks[i].count = got > 0 ? static_cast<size_t>(got) / 8 : 0;
      }
      if (matches(stacks[i])) return true;
    }
    first += stacks.size() + skipped;
  }
  return false;
}

bool StoppedProcess::anyone_inside(const std::vector<std::pair<uint64_t, uint64_t>>& ranges,
                                   Standstill* who) const {
  return !code_pointers(ranges, who).empty();
}

// A thread is where its registers say, and where each signal frame on its stacks says that a
// handler will return to. At such a place in our code, what is on the stack above may be the
// addresses to which programs and helpers return.
std::vector<uint64_t> StoppedProcess::code_pointers(
    const std::vector<std::pair<uint64_t, uint64_t>>& ranges, Standstill* who) const {
  std::pair<uint64_t, uint64_t> vdso{0, 0};
  for (const Region& region : regions_) {
    if (region.path == "[vdso]") vdso = {region.start, region.end};
  }
  std::vector<uint64_t> found;
  struct Place {
    const Thread* thread;
    uint64_t pc, sp;
  };
  std::vector<Place> elsewhere;  // on stacks not looked at yet
  const auto look = [&](const Stack& stack, uint64_t pc, uint64_t sp) {
    const bool is_ours = in_ranges(pc, ranges);
    if (is_ours) found.push_back(pc);
    if (!is_ours && (pc < vdso.first || pc >= vdso.second)) return;
    const size_t first = (sp - stack.sp) / 8;
    const size_t limit = first + (is_ours ? kProgramFrameWords : kVdsoFrameWords);
    for (size_t i = first; i < stack.count && i < limit; ++i) {
      if (in_ranges(stack.words[i], ranges)) found.push_back(stack.words[i]);
    }
  };
  const auto look_everywhere = [&](const Stack& stack, uint64_t pc, uint64_t sp) {
    look(stack, pc, sp);
    static_cast<void>(stack.any_signal_frame([&](uint64_t, uint64_t at, uint64_t at_sp) {
      const bool is_here = at_sp >= stack.sp && at_sp < stack.sp + stack.count * 8;
      if (is_here) look(stack, at, at_sp);
      // A handler on a stack of its own (sigaltstack) interrupted another.
      if (!is_here && elsewhere.size() < kForeignStacksMax) {
        elsewhere.push_back({stack.thread, at, at_sp});
      }
      return false;
    }));
  };
  const auto look_and_note = [&](const Stack& stack, const Thread& owner, uint64_t pc,
                                 uint64_t sp) {
    const size_t before = found.size();
    look_everywhere(stack, pc, sp);
    if (who != nullptr && found.size() > before) who->add(pid_, owner.tid, owner.regs);
    return false;
  };
  any_stack([&](const Stack& stack) {
    const Thread& thread = *stack.thread;
    return look_and_note(stack, thread, thread.regs.rip, thread.regs.rsp);
  });
  std::vector<uint64_t> words;
  for (size_t i = 0; i < elsewhere.size(); ++i) {
    const auto [thread, pc, sp] = elsewhere[i];
    Thread at = *thread;
    at.regs.rsp = sp;
    const uint64_t from = (sp - kRedZoneBytes) & ~uint64_t{7};
    const uint64_t end = std::min(stack_end(at), from + scan_bytes_max_);
    words.resize(end > from ? (end - from) / 8 : 0);
    const iovec local{words.data(), words.size() * 8};
    const iovec remote{reinterpret_cast<void*>(from), words.size() * 8};
    const ssize_t got = process_vm_readv(at.tid, &local, 1, &remote, 1, 0);
    const size_t count = got > 0 ? static_cast<size_t>(got) / 8 : 0;
    look_and_note(Stack{thread, from, words.data(), count}, *thread, pc, sp);
  }
  return found;
}

std::vector<StoppedProcess::Interrupted> StoppedProcess::interrupted_at(
    const std::vector<std::pair<uint64_t, uint64_t>>& ranges) const {
  std::vector<Interrupted> found;
  any_stack([&](const Stack& stack) {
    return stack.any_signal_frame([&](uint64_t slot, uint64_t pc, uint64_t) {
      if (in_ranges(pc, ranges)) found.push_back({slot, pc});
      return false;
    });
  });
  return found;
}

}  // namespace bpftime::target

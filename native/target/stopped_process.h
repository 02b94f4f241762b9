// SPDX-License-Identifier: MIT
// StoppedProcess: every thread of a target, stopped at once, so that code can be exchanged under
// them. While this object lives nothing of the target runs; its destructor lets everything go.
//
// Keep the time between stop() and release() to the writes themselves: each microsecond is one in
// which the target serves nobody.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "../base/result.h"
#include "proc_maps.h"
#include "remote_thread.h"
#include "standstill.h"

namespace bpftime::target {

class StoppedProcess {
 public:
  struct Thread {
    pid_t tid = 0;
    user_regs_struct regs{};
    bool dirty = false;
    /// False of threads that the kernel made (io_uring's): neither code nor stack, which it shows
    /// by zeroes (copy_thread in arch/x86/kernel/process.c).
    [[nodiscard]] bool runs_code() const { return regs.rip != 0 || regs.rsp != 0; }
  };

  /// Stops all threads, also those that are being created meanwhile. They run while they are seized
  /// and stand still from the first interrupt on. ESRCH, EPERM, ETIMEDOUT.
  static Result<std::unique_ptr<StoppedProcess>> stop(pid_t pid);
  ~StoppedProcess();
  StoppedProcess(const StoppedProcess&) = delete;
  StoppedProcess& operator=(const StoppedProcess&) = delete;

  std::vector<Thread>& threads() { return threads_; }

  /// Mappings as read shortly before the stop, and ProcStatus::main_stack: saves reading them, and
  /// more of the first thread's stack than its frames, while everybody waits.
  void know(std::vector<Region> regions, uint64_t main_stack) {
    regions_ = std::move(regions);
    main_stack_ = main_stack;
  }

  /// The process runs Go: its stacks lie side by side in its heap, and g, `g_offset` bytes from the
  /// thread pointer, says where the present one ends. Where it does not, signal frames lie within
  /// `stack_bytes` of the stack pointer, whatever else follows there.
  void expect_go_stacks(int64_t g_offset, uint64_t stack_bytes) {
    g_offset_ = g_offset;
    scan_bytes_max_ = stack_bytes;
  }

  /// True when a thread executes inside one of the ranges, or will once a signal handler that
  /// interrupted it there returns, or once the vDSO does. Return addresses of hijacked functions
  /// are not looked for here: the shadow stacks know them exactly.
  bool anyone_inside(const std::vector<std::pair<uint64_t, uint64_t>>& ranges,
                     Standstill* who = nullptr) const;

  /// Every address inside the ranges at which some thread executes or to which it may come back:
  /// see anyone_inside. May hold stale words of stacks, never misses a live one. `who`, if there,
  /// gets the threads.
  [[nodiscard]] std::vector<uint64_t> code_pointers(
      const std::vector<std::pair<uint64_t, uint64_t>>& ranges, Standstill* who = nullptr) const;

  struct Interrupted {
    uint64_t slot = 0;  // where the signal frame keeps the address
    uint64_t pc = 0;
  };
  /// Signal frames whose interrupted instruction lies in one of the ranges.
  [[nodiscard]] std::vector<Interrupted> interrupted_at(
      const std::vector<std::pair<uint64_t, uint64_t>>& ranges) const;

  struct Visit {
    std::vector<uint64_t> pointers;
    Standstill who;
    uint64_t longest_ns = 0;  // that any one thread stood still
  };
  /// How `process`, of one thread each, is told what know() and expect_go_stacks() tell.
  using Tell = std::function<void(StoppedProcess* process)>;
  /// code_pointers() of a process whose threads are stopped one after another, each while its own
  /// stack is read: it never stands still. What no code leads to any more is in use only by who is
  /// found there: a thread that was outside when it was looked at stays outside.
  /// `only`: no others are looked at; empty: all, those too that are created meanwhile.
  static Result<Visit> visit(pid_t pid, const std::vector<pid_t>& only,
                             const std::vector<std::pair<uint64_t, uint64_t>>& ranges,
                             const Tell& tell);

  /// Lets all threads go on. Nanoseconds since the first was stopped.
  uint64_t release();

 private:
  struct Stack;
  explicit StoppedProcess(pid_t pid) : pid_(pid), thread_count_(pid) {}
  Result<void> stop_all();
  Result<void> seize_these(const std::vector<pid_t>& tids, std::vector<pid_t>* seized);
  Result<void> stop_these(const std::vector<pid_t>& seized);
  [[nodiscard]] uint64_t stack_end(const Thread& thread) const;
  [[nodiscard]] uint64_t go_stack_end(const Thread& thread) const;
  bool any_stack(const std::function<bool(const Stack&)>& matches) const;

  UrgentScope urgent_;
  pid_t pid_;
  ThreadCount thread_count_;
  uint64_t started_ns_ = 0;
  std::vector<Thread> threads_;
  uint64_t main_stack_ = 0;
  uint64_t scan_bytes_max_ = uint64_t{8} << 20;
  std::optional<int64_t> g_offset_;
  mutable std::vector<Region> regions_;  // told, or read at the first look at a stack
};

}  // namespace bpftime::target

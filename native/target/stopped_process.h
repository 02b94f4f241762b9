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
#include <memory>
#include <vector>

#include "../base/result.h"
#include "proc_maps.h"

namespace bpftime::target {

class StoppedProcess {
 public:
  struct Thread {
    pid_t tid = 0;
    user_regs_struct regs{};
    bool dirty = false;
  };

  /// Stops all threads, also those that are being created meanwhile. ESRCH, EPERM, ETIMEDOUT.
  static Result<std::unique_ptr<StoppedProcess>> stop(pid_t pid);
  ~StoppedProcess();
  StoppedProcess(const StoppedProcess&) = delete;
  StoppedProcess& operator=(const StoppedProcess&) = delete;

  std::vector<Thread>& threads() { return threads_; }

  /// Mappings as read shortly before the stop: saves reading them while everybody waits.
  void know_regions(std::vector<Region> regions) { regions_ = std::move(regions); }

  /// True when a thread executes inside one of the ranges, or will once a signal handler that
  /// interrupted it there returns, or once the vDSO does. Return addresses of hijacked functions
  /// are not looked for here: the shadow stacks know them exactly.
  bool anyone_inside(const std::vector<std::pair<uint64_t, uint64_t>>& ranges) const;

  /// Signal frames whose interrupted instruction lies in [begin, end): where the frame keeps its
  /// address, and that address.
  [[nodiscard]] std::vector<std::pair<uint64_t, uint64_t>> interrupted_at(uint64_t begin,
                                                                          uint64_t end) const;

  /// Nanoseconds since the first thread was stopped.
  [[nodiscard]] uint64_t elapsed_ns() const;

 private:
  explicit StoppedProcess(pid_t pid) : pid_(pid) {}
  Result<void> stop_all();
  Result<void> stop_these(const std::vector<pid_t>& tids);
  [[nodiscard]] std::vector<uint64_t> copy_stack(const Thread& thread, uint64_t sp) const;

  pid_t pid_;
  uint64_t started_ns_ = 0;
  std::vector<Thread> threads_;
  mutable std::vector<Region> regions_;  // told, or read at the first look at a stack
};

}  // namespace bpftime::target

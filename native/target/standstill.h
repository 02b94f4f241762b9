// SPDX-License-Identifier: MIT
// Standstill: threads that were found where they keep us from something, and whether any of them
// has run since, asked of /proc without disturbing anybody. A stop makes some waits of the kernel
// begin anew (epoll_wait, a receive with a time-out): who stops a sleeping process again and again
// to see whether it has woken up keeps it from ever waking up.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <vector>

namespace bpftime::target {

class Standstill {
 public:
  /// Notes a thread that is stopped by us now, with the registers that it has.
  void add(pid_t pid, pid_t tid, const user_regs_struct& regs);
  void add(const Standstill& others);
  void clear() { threads_.clear(); }
  [[nodiscard]] bool empty() const { return threads_.empty(); }
  /// Those that have run since they were added, or are gone, or cannot be told.
  [[nodiscard]] std::vector<pid_t> moved() const;
  /// Leaves out those that moved() names.
  void forget(const std::vector<pid_t>& tids);

 private:
  struct Thread {
    pid_t pid = 0, tid = 0;
    uint64_t sp = 0, pc = 0;
    uint64_t switches = 0;  // voluntary, when it was noted
  };
  static bool has_moved(const Thread& thread);
  std::vector<Thread> threads_;
};

}  // namespace bpftime::target

// SPDX-License-Identifier: MIT
// RemoteThread: one thread of a target, stopped, made to run system calls or agent functions, and
// put back as it was. All of native/target runs on the one tracer thread: ptrace demands it.
//
// Invariant: the destructor restores registers and signal mask and lets the thread go, whatever
// happened in between; an interrupted epoll_wait or sigtimedwait is restarted instead of returning
// an EINTR that the program never asked for.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "../base/result.h"

namespace bpftime::target {

constexpr int kStopTimeoutMs = 500;
constexpr int kRemoteTimeoutMs = 2000;
/// Of `rseq_cs` in struct rseq: behind cpu_id_start and cpu_id.
constexpr uint64_t kRseqCsOffset = 8;

/// While one of these lives the calling thread may wait for a tracee, and does so urgently:
/// somebody stands still meanwhile.
///
/// waitpid has no time-out, so a signal comes every 50 ms to interrupt it. It is not polled: a
/// thread that is to stop on our own processor would have to wait for us. A higher priority, where
/// we may, keeps threads that we wake up from running before the last one of them is woken.
class UrgentScope {
 public:
  UrgentScope();
  ~UrgentScope();
  UrgentScope(const UrgentScope&) = delete;
  UrgentScope& operator=(const UrgentScope&) = delete;

  /// 0, or WNOHANG where nothing would interrupt a wait.
  static int wait_flags();
};

/// Seizes and interrupts `tid` and waits for the stop. EPERM, ESRCH, EBUSY (traced already),
/// ETIMEDOUT (does not leave an uninterruptible sleep; it is let go as soon as it does).
Result<void> seize_and_stop(pid_t tid, int timeout_ms);

/// The parts of seize_and_stop, so that many threads can stop side by side. A seized thread runs
/// on; it must be interrupted, and whoever was interrupted waited for or given to
/// forget_interrupted.
Result<void> seize(pid_t tid);
Result<void> interrupt(pid_t tid);
Result<void> wait_stopped(pid_t tid, int timeout_ms);
/// Lets an interrupted thread go as soon as it has stopped.
void forget_interrupted(pid_t tid);

/// Lets a stopped thread go after applying the EINTR fix-up to `regs` when it was in a call that
/// would show the interruption. Writes registers only when needed or `dirty`.
void release_thread(pid_t tid, user_regs_struct regs, bool dirty);

/// Detaches threads that stopped only after their time-out. Called between operations.
void reap_late_stops();

class RemoteThread {
 public:
  /// Stops thread `tid` of `pid` and suspends its seccomp filter, if it has one (EPERM when we may
  /// not). See seize_and_stop.
  static Result<std::unique_ptr<RemoteThread>> stop(pid_t pid, pid_t tid);
  /// Uses a thread that a StoppedProcess holds: put back afterwards, but not let go.
  static Result<std::unique_ptr<RemoteThread>> borrow(pid_t pid, pid_t tid);
  ~RemoteThread();
  RemoteThread(const RemoteThread&) = delete;
  RemoteThread& operator=(const RemoteThread&) = delete;

  /// Runs one system call at `syscall_insn` (an address of 0f 05). The kernel's raw result.
  Result<int64_t> syscall(uint64_t syscall_insn, int64_t nr, uint64_t a = 0, uint64_t b = 0,
                          uint64_t c = 0, uint64_t d = 0, uint64_t e = 0, uint64_t f = 0);
  /// Calls `fn(arg)` with the given stack top; returns at the next int3. `resume` continues behind
  /// that int3 until the next one.
  Result<void> call(uint64_t fn, uint64_t arg, uint64_t stack_top);
  Result<void> resume();
  /// rax at the last stop.
  Result<int64_t> result() const;

  [[nodiscard]] const user_regs_struct& saved() const { return saved_; }

  /// What the thread registered by rseq(2); addr 0: nothing, or the kernel does not say.
  struct RseqArea {
    uint64_t addr = 0;
    uint32_t size = 0, signature = 0;
  };
  [[nodiscard]] RseqArea rseq() const { return rseq_; }

 private:
  RemoteThread(pid_t pid, pid_t tid) : pid_(pid), tid_(tid) {}
  Result<void> prepare();
  void let_go();
  Result<void> run_to_trap(int request);
  bool was_pending(int sig);
  Result<void> give_up();
  void save_rseq();
  void restore_rseq() const;

  UrgentScope urgent_;
  pid_t pid_;
  pid_t tid_;
  user_regs_struct saved_{};
  uint64_t saved_mask_ = 0;
  bool borrowed_ = false;
  bool gone_ = false;
  std::vector<int> due_;    // signals that came meanwhile and are sent again
  uint64_t start_rip_ = 0;  // where the remote code begins
  bool stuck_ = false;      // runs our code and does not stop
  RseqArea rseq_;
  uint64_t rseq_cs_ = 0;
};

/// Copies memory of a target; partial transfers fail with EFAULT. Writing goes through
/// /proc/<pid>/mem and ignores page protection (private pages are copied first).
Result<void> read_memory(pid_t pid, uint64_t addr, void* out, size_t size);
Result<void> write_memory(int mem_fd, uint64_t addr, const void* bytes, size_t size);

}  // namespace bpftime::target

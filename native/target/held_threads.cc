// SPDX-License-Identifier: MIT
#include "held_threads.h"

#include <errno.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "remote_thread.h"

namespace bpftime::target {

namespace {

constexpr uint64_t kUserCs64 = 0x33;

std::vector<pid_t>& held_threads() {
  static std::vector<pid_t> held;
  return held;
}

// Threads between their interrupt and their stop, and whether they were let out of a request.
struct Interrupted {
  std::mutex mutex;
  std::unordered_map<pid_t, bool> let_out;
};
Interrupted& interrupted_threads() {
  static Interrupted all;
  return all;
}

std::function<bool(pid_t)>& let_out_hook() {
  static std::function<bool(pid_t)> hook;
  return hook;
}

// Calls whose result is that of our request: what they return is ours to say.
bool reports_failure(uint64_t nr) {
  static constexpr uint64_t kCalls[] = {
      SYS_write,    SYS_writev, SYS_pwrite64,        SYS_pwritev,  SYS_pwritev2,
      SYS_sendfile, SYS_splice, SYS_copy_file_range, SYS_close,    SYS_unlink,
      SYS_unlinkat, SYS_rename, SYS_renameat,        SYS_renameat2};
  return std::find(std::begin(kCalls), std::end(kCalls), nr) != std::end(kCalls);
}

}  // namespace

void set_let_out(std::function<bool(pid_t)> let_out) { let_out_hook() = std::move(let_out); }

bool claim_interrupted(pid_t tid) {
  Interrupted& all = interrupted_threads();
  const std::lock_guard<std::mutex> guard(all.mutex);
  const auto it = all.let_out.find(tid);
  if (it == all.let_out.end()) return false;
  it->second = true;
  return true;
}

bool is_held(pid_t tid) {
  const auto& held = held_threads();
  return std::find(held.begin(), held.end(), tid) != held.end();
}

void lose_held(pid_t tid) { std::erase(held_threads(), tid); }

// A request that comes later finds the thread among the interrupted ones; one that is there already
// is answered here. Never before the interrupt: the thread would run on.
void interrupted(pid_t tid) {
  Interrupted& all = interrupted_threads();
  {
    const std::lock_guard<std::mutex> guard(all.mutex);
    all.let_out.emplace(tid, false);
  }
  if (let_out_hook() && let_out_hook()(tid)) static_cast<void>(claim_interrupted(tid));
}

void settled(pid_t tid, bool stopped) {
  Interrupted& all = interrupted_threads();
  const std::lock_guard<std::mutex> guard(all.mutex);
  const auto it = all.let_out.find(tid);
  if (it == all.let_out.end()) return;
  if (stopped && it->second) held_threads().push_back(tid);
  all.let_out.erase(it);
}

Result<void> hold_thread(pid_t tid) {
  if (is_held(tid)) return {};
  const UrgentScope urgent;
  const Result<void> stopped = seize_and_stop(tid, kStopTimeoutMs);
  if (!stopped) return stopped;
  if (is_held(tid)) return {};
  if (ptrace(PTRACE_DETACH, tid, nullptr, nullptr) != 0) forget_interrupted(tid);
  return fail(ECANCELED, "it no longer waits");
}

void release_held(pid_t tid, int errnum) {
  if (!is_held(tid)) return;
  std::erase(held_threads(), tid);
  user_regs_struct regs{};
  if (ptrace(PTRACE_GETREGS, tid, nullptr, &regs) != 0) return forget_interrupted(tid);
  const bool tells = errnum != 0 && regs.cs == kUserCs64 && reports_failure(regs.orig_rax);
  if (tells) regs.rax = static_cast<uint64_t>(-static_cast<int64_t>(errnum));
  release_thread(tid, regs, tells);
}

}  // namespace bpftime::target

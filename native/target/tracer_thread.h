// SPDX-License-Identifier: MIT
// The one thread that traces: ptrace binds a tracee to the thread that seized it, so every
// operation on a target is a job in this queue, in order. Also where sessions live.
//
// To the kernel it is a process of its own that shares our memory and descriptors. When the daemon
// is killed (SIGKILL) the kernel lets go of what a dead tracer held: threads with our registers,
// text half written. This process outlives the daemon by the job that it is at, and then ends.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "session.h"

namespace bpftime::target {

class TracerThread {
 public:
  TracerThread();
  /// Runs what is queued, then ends the thread.
  ~TracerThread();
  TracerThread(const TracerThread&) = delete;
  TracerThread& operator=(const TracerThread&) = delete;

  void post(std::function<void()> job);

  /// The daemon was killed: nobody waits for answers any more. Only inside jobs.
  [[nodiscard]] static bool orphaned();

  // Only inside jobs.
  uint32_t add(std::unique_ptr<Session> session);
  Session* find(uint32_t id);
  void remove(uint32_t id);

 private:
  void host();
  void run();
  static int enter(void* self);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  std::unordered_map<uint32_t, std::unique_ptr<Session>> sessions_;
  uint32_t next_id_ = 1;
  std::thread thread_;
};

}  // namespace bpftime::target

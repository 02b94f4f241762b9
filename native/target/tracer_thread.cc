// SPDX-License-Identifier: MIT
#include "tracer_thread.h"

#include <pthread.h>

#include "remote_thread.h"

namespace bpftime::target {

TracerThread::TracerThread() : thread_([this] { run(); }) {}

TracerThread::~TracerThread() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void TracerThread::post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

uint32_t TracerThread::add(std::unique_ptr<Session> session) {
  const uint32_t id = next_id_++;
  sessions_[id] = std::move(session);
  return id;
}

Session* TracerThread::find(uint32_t id) {
  const auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second.get();
}

void TracerThread::remove(uint32_t id) { sessions_.erase(id); }

void TracerThread::run() {
  pthread_setname_np(pthread_self(), "tracer");
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      // The time-out serves threads that stopped late: they are let go within this time.
      wake_.wait_for(lock, std::chrono::milliseconds(200),
                     [this] { return ending_ || !jobs_.empty(); });
      if (jobs_.empty() && ending_) return;
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
    }
    reap_late_stops();
    if (job) job();
  }
}

}  // namespace bpftime::target

// SPDX-License-Identifier: MIT
#include "tracer_thread.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "remote_thread.h"

namespace bpftime::target {

namespace {

constexpr size_t kStackBytes = 1 << 20;
// A job ends by its own time-outs long before this; a lock of the dead may keep it for ever.
constexpr unsigned kOrphanSeconds = 10;
constexpr int kDaemonDied = SIGUSR1;

std::atomic<bool> is_busy = false;
std::atomic<bool> is_orphan = false;
std::atomic<pid_t> daemon_pid = 0;

void on_daemon_death(int) {
  if (!is_busy) _exit(0);
  is_orphan = true;
  alarm(kOrphanSeconds);
}

// Everything else that is sent to the daemon's group is the daemon's business.
void await_daemon_death() {
  struct sigaction action {};
  action.sa_handler = on_daemon_death;
  sigaction(kDaemonDied, &action, nullptr);
  signal(SIGALRM, SIG_DFL);
  sigset_t blocked;
  sigfillset(&blocked);
  for (const int sig : {kDaemonDied, SIGALRM, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) {
    sigdelset(&blocked, sig);
  }
  sigprocmask(SIG_SETMASK, &blocked, nullptr);
  prctl(PR_SET_PDEATHSIG, kDaemonDied);
  if (getppid() != daemon_pid) _exit(0);
}

}  // namespace

TracerThread::TracerThread() : thread_([this] { host(); }) {}

bool TracerThread::orphaned() { return is_orphan; }

// The thread whose place the tracer takes: it lends its thread-local storage, so that the C library
// works as ever, and therefore does nothing itself until the tracer has ended.
void TracerThread::host() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  daemon_pid = getpid();
  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  const pid_t pid = stack == MAP_FAILED ? -1
                                        : clone(enter, static_cast<uint8_t*>(stack) + kStackBytes,
                                                CLONE_VM | CLONE_FS | CLONE_FILES, this);
  if (pid < 0) return run();  // no process left for us: less safe, but right
  while (waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) continue;
  munmap(stack, kStackBytes);
}

int TracerThread::enter(void* self) {
  await_daemon_death();
  static_cast<TracerThread*>(self)->run();
  return 0;
}

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
  prctl(PR_SET_NAME, "tracer");
  for (;;) {
    std::function<void()> job;
    is_busy = false;
    if (is_orphan) _exit(0);
    {
      std::unique_lock lock(mutex_);
      // The time-out serves threads that stopped late: they are let go within this time.
      wake_.wait_for(lock, std::chrono::milliseconds(200),
                     [this] { return ending_ || !jobs_.empty(); });
      is_busy = true;
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

// SPDX-License-Identifier: MIT
#include "load_watch.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <thread>

#include "../abi/agent.h"
#include "../base/scoped_fd.h"

namespace bpftime::target {

namespace {

// Bounds how long a thread outlives its watch when the wake-up is lost between look and sleep.
constexpr time_t kSleepSeconds = 1;

uint32_t load(const u32& word) { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
void store(u32* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

// Not FUTEX_PRIVATE_FLAG: the other side is another process.
void futex_wake(u32* word) { syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }
void futex_wait(u32* word, uint32_t value) {
  const timespec limit{kSleepSeconds, 0};
  syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, nullptr, 0);
}

}  // namespace

struct LoadWatch::Shared {
  ScopedFd fd;
  load_gate* gate = nullptr;
  std::atomic<bool> ending{false};
  ~Shared() {
    if (gate != nullptr) munmap(gate, ABI_PAGE_BYTES);
  }
};

Result<std::unique_ptr<LoadWatch>> LoadWatch::create(std::function<void(uint32_t)> on_event) {
  auto shared = std::make_shared<Shared>();
  shared->fd.reset(memfd_create("bpftime-gate", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!shared->fd.valid() || ftruncate(shared->fd.get(), ABI_PAGE_BYTES) != 0 ||
      // A target that shrank it would end the daemon by SIGBUS.
      fcntl(shared->fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(ENOMEM, "no memory to watch the loader");
  }
  void* view =
      mmap(nullptr, ABI_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shared->fd.get(), 0);
  if (view == MAP_FAILED) return fail(ENOMEM, "no memory to watch the loader");
  shared->gate = static_cast<load_gate*>(view);
  shared->gate->version = AGENT_V6;
  std::unique_ptr<LoadWatch> watch(new LoadWatch(shared));
  std::thread([shared, on_event = std::move(on_event)] { run(shared, on_event); }).detach();
  return watch;
}

LoadWatch::~LoadWatch() {
  shared_->ending.store(true);
  want(false);
  store(&shared_->gate->seen, load(shared_->gate->event));
  settle(load(shared_->gate->event));
  futex_wake(&shared_->gate->seen);
  futex_wake(&shared_->gate->event);
}

int LoadWatch::page_fd() const { return shared_->fd.get(); }

void LoadWatch::want(bool wanted) { store(&shared_->gate->wanted, wanted ? 1 : 0); }

void LoadWatch::settle(uint32_t event) {
  store(&shared_->gate->settled, event);
  futex_wake(&shared_->gate->settled);
}

void LoadWatch::run(const std::shared_ptr<Shared>& shared,
                    const std::function<void(uint32_t)>& on_event) {
  prctl(PR_SET_NAME, "load-watch");
  load_gate* gate = shared->gate;
  uint32_t last = 0;
  while (!shared->ending.load()) {
    const uint32_t now = load(gate->event);
    if (now == last) {
      futex_wait(&gate->event, last);
      continue;
    }
    last = now;
    store(&gate->seen, now);
    futex_wake(&gate->seen);
    on_event(now);
  }
}

}  // namespace bpftime::target

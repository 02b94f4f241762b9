// SPDX-License-Identifier: MIT
#include "rseq_check.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

#include "remote_thread.h"

extern "C" {
// native/vm/rt/mask.c
extern const char rt_mask_abort[] __attribute__((visibility("hidden")));
}

namespace bpftime::target {

namespace {

constexpr uint32_t kSignature = 0x53053053;
constexpr size_t kAreaBytes = 32;
constexpr int kSysRseq = 334;
constexpr int kTries = 100;
constexpr int64_t kSpinNsMax = 1'000'000'000;

struct Sequence {
  uint32_t version = 0, flags = 0;
  uint64_t start = 0, length = 0, abort = 0;
};
alignas(32) Sequence empty_sequence;

// Of the one thread that tries; its handler looks there.
std::atomic<uint64_t>* word;
std::atomic<int> handled, cleared;

void on_signal(int) {
  if (word->load() == 0) cleared.fetch_add(1);
  handled.fetch_add(1);
}

// The registered area of this thread: the C library's, else `own`. Null: there is no rseq.
std::atomic<uint64_t>* find_word(uint8_t* own) {
  const auto* offset = static_cast<const ptrdiff_t*>(dlsym(RTLD_DEFAULT, "__rseq_offset"));
  const auto* size = static_cast<const unsigned*>(dlsym(RTLD_DEFAULT, "__rseq_size"));
  uint8_t* area = own;
  if (offset != nullptr && size != nullptr && *size != 0) {
    area = static_cast<uint8_t*>(__builtin_thread_pointer()) + *offset;
  } else if (::syscall(kSysRseq, own, kAreaBytes, 0, kSignature) != 0) {
    return nullptr;
  }
  return reinterpret_cast<std::atomic<uint64_t>*>(area + kRseqCsOffset);
}

void put_token() { word->store(reinterpret_cast<uint64_t>(&empty_sequence)); }

bool survives_calls() {
  for (int i = 0; i < kTries; ++i) {
    put_token();
    ::syscall(SYS_getppid);
    if (word->load() != 0) return true;
  }
  return false;
}

bool goes_with_sleep() {
  put_token();
  const timespec pause{0, 100'000};
  nanosleep(&pause, nullptr);
  return word->load() == 0;
}

bool goes_with_signal_in_call(int sig) {
  const int before = cleared.load();
  put_token();
  ::syscall(SYS_tgkill, getpid(), ::syscall(SYS_gettid), sig);
  return cleared.load() == before + 1;
}

// From outside, while this thread is in no system call.
bool goes_with_signal_in_code(int sig) {
  const int before = handled.load(), cleared_before = cleared.load();
  const long tid = ::syscall(SYS_gettid);
  std::atomic<bool> ready{false};
  std::thread sender([&] {
    while (!ready.load()) {
    }
    ::syscall(SYS_tgkill, getpid(), tid, sig);
  });
  timespec begin{}, now{};
  clock_gettime(CLOCK_MONOTONIC, &begin);
  ready.store(true);
  while (handled.load() == before) {
    put_token();
    clock_gettime(CLOCK_MONOTONIC, &now);
    if ((now.tv_sec - begin.tv_sec) * 1'000'000'000 + now.tv_nsec - begin.tv_nsec > kSpinNsMax) {
      break;
    }
  }
  sender.join();
  return cleared.load() == cleared_before + 1;
}

bool try_all() {
  alignas(32) uint8_t own[kAreaBytes] = {};
  word = find_word(own);
  if (word == nullptr) return false;
  empty_sequence.start = empty_sequence.abort = reinterpret_cast<uint64_t>(rt_mask_abort);
  const int sig = SIGRTMAX - 2;  // nothing else of the daemon uses it
  struct sigaction action {
  }, former{};
  action.sa_handler = on_signal;
  sigset_t set, mask;
  sigemptyset(&set);
  sigaddset(&set, sig);
  if (sigaction(sig, &action, &former) != 0 || pthread_sigmask(SIG_UNBLOCK, &set, &mask) != 0) {
    return false;
  }
  bool good = survives_calls();
  for (int i = 0; i < 3 && good; ++i) {
    good = goes_with_sleep() && goes_with_signal_in_call(sig) && goes_with_signal_in_code(sig);
  }
  word->store(0);
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
  sigaction(sig, &former, nullptr);
  return good;
}

}  // namespace

bool kernel_clears_rseq() {
  static const bool clears = [] {
    bool good = false;
    std::thread trier([&good] { good = try_all(); });
    trier.join();
    return good;
  }();
  return clears;
}

}  // namespace bpftime::target

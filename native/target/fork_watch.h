// SPDX-License-Identifier: MIT
// ForkWatch: hears from the kernel when a process forks or executes (proc connector, CN_PROC), and
// says so for the processes that somebody cares about. Needs CAP_NET_ADMIN in the first namespaces.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>

#include "../base/result.h"

namespace bpftime::target {

class ForkWatch {
 public:
  /// `child` 0: `pid` executes another program. Called on a thread of its own.
  using Listener = std::function<void(pid_t pid, pid_t child)>;

  /// EPERM, EPROTONOSUPPORT: this machine or user does not get such news; look from time to time.
  static Result<std::unique_ptr<ForkWatch>> create(Listener listener);
  ~ForkWatch();
  ForkWatch(const ForkWatch&) = delete;
  ForkWatch& operator=(const ForkWatch&) = delete;

  /// From now on there is news of `pid`, or no more.
  void care(pid_t pid, bool cares);

 private:
  struct Shared;
  explicit ForkWatch(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  std::shared_ptr<Shared> shared_;
};

}  // namespace bpftime::target

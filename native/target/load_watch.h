// SPDX-License-Identifier: MIT
// LoadWatch: hears when a process loads or unloads modules. The daemon's side of struct load_gate:
// a page shared with the agent, and a thread that sleeps on it and says at once that somebody is
// here; what has to be done then is decided elsewhere and takes longer.
//
// The page is the target's to corrupt: nothing but event numbers is read from it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "../base/result.h"

namespace bpftime::target {

class LoadWatch {
 public:
  /// `on_event` is called on a thread of its own, until the watch is destroyed and possibly once
  /// after that.
  static Result<std::unique_ptr<LoadWatch>> create(std::function<void(uint32_t event)> on_event);
  /// Does not wait for the thread. A target that waits for an answer gets it.
  ~LoadWatch();
  LoadWatch(const LoadWatch&) = delete;
  LoadWatch& operator=(const LoadWatch&) = delete;

  /// A page to be mapped in the target, shared and writable.
  [[nodiscard]] int page_fd() const;
  /// Whether anything waits for a module. Nobody is told, or kept waiting, while nothing does.
  void want(bool wanted);
  /// What follows from `event` is in force: the target goes on.
  void settle(uint32_t event);

 private:
  struct Shared;
  explicit LoadWatch(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  static void run(const std::shared_ptr<Shared>& shared,
                  const std::function<void(uint32_t)>& on_event);

  std::shared_ptr<Shared> shared_;
};

}  // namespace bpftime::target

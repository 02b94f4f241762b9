// SPDX-License-Identifier: MIT
#include "budget.h"

#include <algorithm>
#include <cerrno>
#include <ctime>

namespace bpftime {
namespace {

constexpr uint64_t kSliceInsns = 16384;  // some microseconds
// Far below 0, and far from where taking more off would come round to the other end.
constexpr int64_t kOver = INT64_MIN / 2;

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

void take_slice(Budget* budget) {
  const uint64_t slice = std::min(budget->insns_left, kSliceInsns);
  budget->insns_left -= slice;
  budget->left = static_cast<int64_t>(slice);
}

}  // namespace

Budget Budget::of(uint64_t insns, uint64_t wall_ns) {
  Budget budget;
  if (insns != 0) budget.insns_left = insns;
  if (wall_ns != 0) {
    const uint64_t now = now_ns();
    budget.deadline_ns = wall_ns > UINT64_MAX - now ? UINT64_MAX : now + wall_ns;
  }
  take_slice(&budget);
  return budget;
}

uint64_t bpftime_budget_refill(Budget* budget) {
  if (budget->errnum == 0 && budget->deadline_ns != UINT64_MAX && now_ns() >= budget->deadline_ns) {
    budget->errnum = ETIMEDOUT;
  }
  const auto overdrawn = static_cast<uint64_t>(-budget->left);
  if (budget->errnum == 0 && overdrawn > budget->insns_left) budget->errnum = EDQUOT;
  if (budget->errnum != 0) {
    budget->left = kOver;
    return 0;
  }
  budget->insns_left -= overdrawn;
  take_slice(budget);
  return 1;
}

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// May this caller touch that process? The kernel's ptrace access rule (ptrace(2), "Ptrace access
// mode checking"), applied to the caller of a file operation instead of to the daemon.
// Asked anew for every operation: credentials of either side may change between two of them.
#pragma once

#include <cstdint>

namespace bpftime::fuse {

/// The caller of a request, from the FUSE header. `uid` and `gid` are its file system ids.
struct Caller {
  uint32_t uid = 0;
  uint32_t gid = 0;
  int tid = 0;  // 0: not visible from the daemon's pid namespace
};

/// PTRACE_MODE_READ and PTRACE_MODE_ATTACH; Yama restricts only the latter.
enum class Touch { kSee, kChange };

/// 0, EACCES, or ESRCH when the target is gone.
int check_access(const Caller& caller, int target_pid, Touch touch);

}  // namespace bpftime::fuse

// SPDX-License-Identifier: MIT
// What /proc/<pid> tells about a process: mappings, threads, identity. Reads only.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../base/result.h"
#include "../base/scoped_fd.h"

namespace bpftime::target {

struct Region {
  uint64_t start = 0;
  uint64_t end = 0;
  bool read = false, write = false, exec = false, shared = false;
  uint64_t file_off = 0;
  uint64_t inode = 0;
  std::string path;
};

/// The mappings, in address order. Fails with ESRCH when the process is gone.
Result<std::vector<Region>> read_regions(pid_t pid);

/// Thread ids of a process; empty when it is gone.
std::vector<pid_t> read_threads(pid_t pid);

/// Counts the threads of a process again and again, at a tenth of the cost of reading the list.
class ThreadCount {
 public:
  explicit ThreadCount(pid_t pid);
  /// Ended ones that nobody collected included; 0 when the process is gone.
  [[nodiscard]] size_t now() const;

 private:
  ScopedFd task_dir_;
};

struct ProcStatus {
  uint64_t start_time = 0;  // clock ticks since boot, field 22 of stat: tells reused pids apart
  uint64_t main_stack =
      0;  // where the first thread's frames begin; arguments lie above. 0: unknown
  pid_t tracer = 0;
  int seccomp_mode = 0;  // 0 none, 1 strict, 2 filter
  bool kernel_thread = false;
  bool shadow_stack = false;  // CET: return addresses are checked by the processor
  bool zombie = false;
  pid_t ns_pid = 0;  // id in its own pid namespace
  int ns_depth = 0;  // pid namespaces in which it has an id, from that of /proc inwards
};

/// Fails with ESRCH when the process is gone.
Result<ProcStatus> read_status(pid_t pid);

/// Whether a process or thread is gone, or has ended and nobody collected it. Cheaper than the
/// above.
bool has_ended(pid_t tid);
/// A thread through which the process' memory can be reached: its first one, which may have ended
/// while others live on, or another one. All of /proc/TID/ is there for either.
pid_t living_thread(pid_t pid);
/// Whether it has not, and is no thread that the kernel made for the process (io_uring's pollers
/// and workers, which stand in its list of threads and never run its code).
bool runs_code(pid_t tid);

/// A free address in [first, first + choices) with `bytes` free behind it, on pages of its own.
std::optional<uint64_t> find_place(const std::vector<Region>& regions, uint64_t first,
                                   uint64_t choices, uint64_t bytes);

/// A free range of `bytes` from which every byte of [near_start, near_end) and every byte of the
/// range itself are within reach of a rel32. Keeps clear of the growing ends of heap and stack.
std::optional<uint64_t> find_hole(const std::vector<Region>& regions, uint64_t near_start,
                                  uint64_t near_end, uint64_t bytes);

}  // namespace bpftime::target

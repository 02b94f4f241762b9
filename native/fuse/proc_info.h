// SPDX-License-Identifier: MIT
// What /proc says about a process, read once per question and never remembered: a pid is only a
// name, and what it names may change between two reads.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace bpftime::fuse {

/// Fields of /proc/PID/stat.
struct ProcStat {
  char state = '?';
  int parent_pid = 0;
  bool kernel_thread = false;
  uint64_t start_ticks = 0;  // since boot; with the pid it names one process for ever
  int threads = 0;

  /// Its first thread may have ended before the others: /proc calls that a zombie, too.
  [[nodiscard]] bool has_ended() const { return state == 'X' || (state == 'Z' && threads <= 1); }
};

/// Credentials and capabilities from /proc/PID/status. Works for thread ids, too.
struct ProcStatus {
  int tgid = 0;
  uint32_t uid[3] = {};  // real, effective, saved
  uint32_t gid[3] = {};
  uint64_t caps_permitted = 0;
  uint64_t caps_effective = 0;
};

std::optional<ProcStat> read_proc_stat(int pid);
std::optional<ProcStatus> read_proc_status(int tid);

/// Thread group of a thread, 0 when it is gone.
int tgid_of(int tid);

/// Effective user and group: the owner of the process's directory.
bool read_proc_owner(int pid, uint32_t* uid, uint32_t* gid);

/// True when the process lets others of its user look inside (prctl(2), PR_SET_DUMPABLE). /proc
/// gives the files of one that does not to root; root's own cannot be told apart and count as
/// dumpable.
bool is_dumpable(int pid, uint32_t effective_uid, uint32_t effective_gid);

/// Inode of the user namespace of a thread; 0 when it cannot be seen.
uint64_t user_namespace_of(int tid);

/// All numeric names in /proc.
std::vector<int> list_proc_pids();

}  // namespace bpftime::fuse

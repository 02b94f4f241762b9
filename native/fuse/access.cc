// SPDX-License-Identifier: MIT
#include "access.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "../base/scoped_fd.h"
#include "proc_info.h"

namespace bpftime::fuse {
namespace {

uint64_t own_user_namespace() {
  static const uint64_t ino = user_namespace_of(getpid());
  return ino;
}

// A capability counts only in the daemon's own user namespace: `unshare -Ur` gives anybody a full
// set inside a new one.
bool has_ptrace_capability(int tid) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, tid};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capget, &header, data) != 0) return false;
  if ((data[0].effective & (1U << CAP_SYS_PTRACE)) == 0) return false;
  return user_namespace_of(tid) == own_user_namespace();
}

// A path walk asks two or three times within microseconds. Only the right to look is remembered,
// for one thread, and for less time than a system call may take: dropping privileges still works.
constexpr uint64_t kRememberNs = 100'000;

uint64_t now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

bool may_look_everywhere(const Caller& caller) {
  thread_local Caller last;
  thread_local uint64_t expires_ns = 0;
  const uint64_t now = now_ns();
  if (now < expires_ns && caller.tid == last.tid && caller.uid == last.uid) return true;
  if (!has_ptrace_capability(caller.tid)) return false;
  last = caller;
  expires_ns = now + kRememberNs;
  return true;
}

// 0 classic, 1 only descendants, 2 only with CAP_SYS_PTRACE, 3 nobody.
int yama_scope() {
  const ScopedFd fd(open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC));
  char digit = '0';
  if (!fd.valid() || read(fd.get(), &digit, 1) != 1) return 0;
  return digit - '0';
}

bool is_descendant(int pid, int ancestor) {
  for (int depth = 0; depth < 64 && pid > 1; ++depth) {
    const std::optional<ProcStat> stat = read_proc_stat(pid);
    if (!stat) return false;
    pid = stat->parent_pid;
    if (pid == ancestor) return true;
  }
  return false;
}

// Both the real ids, which ptrace(2) looks at, and those that count for files: a set-user-id
// program that has lowered either does not want to use them.
bool same_user(const Caller& caller, const ProcStatus& from, const ProcStatus& to) {
  for (int i = 0; i < 3; ++i) {
    if (to.uid[i] != from.uid[0] || to.gid[i] != from.gid[0]) return false;
    if (to.uid[i] != caller.uid || to.gid[i] != caller.gid) return false;
  }
  return true;
}

}  // namespace

int check_access(const Caller& caller, int target_pid, Touch touch) {
  if (caller.tid <= 0) return EACCES;
  const int yama = touch == Touch::kChange ? yama_scope() : 0;
  if (yama >= 3) return EACCES;
  if (touch == Touch::kSee ? may_look_everywhere(caller) : has_ptrace_capability(caller.tid)) {
    return 0;
  }
  const std::optional<ProcStatus> from = read_proc_status(caller.tid);
  if (!from) return EACCES;
  if (from->tgid == target_pid) return 0;
  if (yama >= 2) return EACCES;
  const std::optional<ProcStatus> to = read_proc_status(target_pid);
  if (!to) return ESRCH;
  if (!same_user(caller, *from, *to)) return EACCES;
  if ((to->caps_permitted & ~from->caps_effective) != 0) return EACCES;
  const uint64_t from_namespace = user_namespace_of(caller.tid);
  if (from_namespace == 0 || from_namespace != user_namespace_of(target_pid)) return EACCES;
  if (!is_dumpable(target_pid, to->uid[1], to->gid[1])) return EACCES;
  if (yama == 1 && !is_descendant(target_pid, from->tgid)) return EACCES;
  return 0;
}

}  // namespace bpftime::fuse

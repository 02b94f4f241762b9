// SPDX-License-Identifier: MIT
#include "proc_info.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../base/scoped_fd.h"

namespace bpftime::fuse {
namespace {

constexpr unsigned kFlagKernelThread = 0x00200000;  // PF_KTHREAD, include/linux/sched.h

// Reads a small /proc file as a terminated string; false when it is gone.
template <size_t kSize>
bool slurp(const char* path, char (&buf)[kSize]) {
  const ScopedFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return false;
  const ssize_t len = read(fd.get(), buf, kSize - 1);
  if (len <= 0) return false;
  buf[len] = '\0';
  return true;
}

const char* field(const char* text, const char* key) {
  const char* at = strstr(text, key);
  return at == nullptr ? nullptr : at + strlen(key);
}

}  // namespace

std::optional<ProcStat> read_proc_stat(int pid) {
  char path[40];
  char buf[1024];
  snprintf(path, sizeof(path), "/proc/%d/stat", pid);
  if (!slurp(path, buf)) return std::nullopt;
  // The command name may hold spaces and parentheses: fields count from the last one.
  const char* rest = strrchr(buf, ')');
  if (rest == nullptr) return std::nullopt;
  ProcStat out;
  unsigned flags = 0;
  unsigned long long start = 0;
  const int fields = sscanf(rest + 1,
                            " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %d"
                            " %*d %llu",
                            &out.state, &out.parent_pid, &flags, &out.threads, &start);
  if (fields != 5) return std::nullopt;
  out.kernel_thread = (flags & kFlagKernelThread) != 0;
  out.start_ticks = start;
  return out;
}

std::optional<ProcStatus> read_proc_status(int tid) {
  char path[40];
  char buf[4096];
  snprintf(path, sizeof(path), "/proc/%d/status", tid);
  if (!slurp(path, buf)) return std::nullopt;
  const char* tgid = field(buf, "\nTgid:");
  const char* uid = field(buf, "\nUid:");
  const char* gid = field(buf, "\nGid:");
  const char* permitted = field(buf, "\nCapPrm:");
  const char* effective = field(buf, "\nCapEff:");
  if (tgid == nullptr || uid == nullptr || gid == nullptr || permitted == nullptr ||
      effective == nullptr) {
    return std::nullopt;
  }
  ProcStatus out;
  out.tgid = atoi(tgid);
  if (sscanf(uid, "%u %u %u", &out.uid[0], &out.uid[1], &out.uid[2]) != 3) return std::nullopt;
  if (sscanf(gid, "%u %u %u", &out.gid[0], &out.gid[1], &out.gid[2]) != 3) return std::nullopt;
  out.caps_permitted = strtoull(permitted, nullptr, 16);
  out.caps_effective = strtoull(effective, nullptr, 16);
  return out;
}

int tgid_of(int tid) {
  const std::optional<ProcStatus> status = read_proc_status(tid);
  return status ? status->tgid : 0;
}

bool read_proc_owner(int pid, uint32_t* uid, uint32_t* gid) {
  char path[40];
  snprintf(path, sizeof(path), "/proc/%d", pid);
  struct stat st;
  if (stat(path, &st) != 0) return false;
  *uid = st.st_uid;
  *gid = st.st_gid;
  return true;
}

bool is_dumpable(int pid, uint32_t effective_uid, uint32_t effective_gid) {
  // Not the directory's owner: task_dump_owner() in fs/proc/base.c exempts it.
  char path[40];
  snprintf(path, sizeof(path), "/proc/%d/environ", pid);
  struct stat st;
  return stat(path, &st) == 0 && st.st_uid == effective_uid && st.st_gid == effective_gid;
}

uint64_t user_namespace_of(int tid) {
  char path[40];
  char target[40];
  // readlink and not stat: half the time, because no namespace inode has to be made.
  snprintf(path, sizeof(path), "/proc/%d/ns/user", tid);
  const ssize_t len = readlink(path, target, sizeof(target) - 1);
  if (len <= 0) return 0;
  target[len] = '\0';
  unsigned long long ino = 0;
  return sscanf(target, "user:[%llu]", &ino) == 1 ? ino : 0;
}

std::vector<int> list_proc_pids() {
  std::vector<int> pids;
  DIR* dir = opendir("/proc");
  if (dir == nullptr) return pids;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') pids.push_back(atoi(entry->d_name));
  }
  closedir(dir);
  return pids;
}

}  // namespace bpftime::fuse

// SPDX-License-Identifier: MIT
#include "standstill.h"

#include <inttypes.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

namespace bpftime::target {

namespace {

using File = std::unique_ptr<FILE, int (*)(FILE*)>;

File open_of(pid_t pid, pid_t tid, const char* name) {
  const std::string path =
      "/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/" + name;
  return File(fopen(path.c_str(), "re"), fclose);
}

std::optional<uint64_t> voluntary_switches(pid_t pid, pid_t tid) {
  const File file = open_of(pid, tid, "status");
  if (file == nullptr) return std::nullopt;
  char line[256];
  while (fgets(line, sizeof line, file.get()) != nullptr) {
    uint64_t count = 0;
    if (sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &count) == 1) return count;
  }
  return std::nullopt;
}

}  // namespace

void Standstill::add(pid_t pid, pid_t tid, const user_regs_struct& regs) {
  const bool known = std::any_of(threads_.begin(), threads_.end(),
                                 [tid](const Thread& thread) { return thread.tid == tid; });
  if (known) return;
  // Without a count it cannot be told, and passes for one that has moved.
  const uint64_t switches = voluntary_switches(pid, tid).value_or(0);
  threads_.push_back({pid, tid, regs.rsp, regs.rip, switches});
}

void Standstill::add(const Standstill& others) {
  threads_.insert(threads_.end(), others.threads_.begin(), others.threads_.end());
}

// Let go, a thread that slept goes back to sleep at the same place: one voluntary switch more. A
// thread that slept elsewhere has another stack pointer or another place.
bool Standstill::has_moved(const Thread& thread) {
  const File file = open_of(thread.pid, thread.tid, "syscall");
  char line[256];
  if (file == nullptr || fgets(line, sizeof line, file.get()) == nullptr) return true;
  // `number args... sp pc`, of proc_pid_syscall(5); "running" of one that is not asleep.
  const char* const pc_word = strrchr(line, ' ');
  if (pc_word == nullptr || pc_word == line) return true;
  const char* sp_word = pc_word - 1;
  while (sp_word > line && *sp_word != ' ') --sp_word;
  uint64_t sp = 0, pc = 0;
  if (sscanf(sp_word, " %" SCNx64 " %" SCNx64, &sp, &pc) != 2) return true;
  if (sp != thread.sp || pc != thread.pc) return true;
  const auto switches = voluntary_switches(thread.pid, thread.tid);
  return !switches || *switches > thread.switches + 1;
}

std::vector<pid_t> Standstill::moved() const {
  std::vector<pid_t> tids;
  for (const Thread& thread : threads_) {
    if (has_moved(thread)) tids.push_back(thread.tid);
  }
  return tids;
}

void Standstill::forget(const std::vector<pid_t>& tids) {
  std::erase_if(threads_, [&](const Thread& thread) {
    return std::find(tids.begin(), tids.end(), thread.tid) != tids.end();
  });
}

}  // namespace bpftime::target

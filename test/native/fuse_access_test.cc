// SPDX-License-Identifier: MIT
// The ptrace rule on callers: compared with the kernel's own answer where it can be asked
// (opening /proc/PID/maps needs PTRACE_MODE_READ, too).
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>

#include "fuse/access.h"
#include "fuse/proc_info.h"
#include "tap.h"

using namespace bpftime::fuse;
using tap::ok;

constexpr uint32_t kNobody = 65534;

static pid_t start(const std::function<void()>& prepare) {
  int ready[2];
  if (pipe(ready) != 0) return -1;
  const pid_t pid = fork();
  if (pid == 0) {
    prepare();
    (void)!write(ready[1], "x", 1);
    for (;;) pause();
  }
  char byte = 0;
  (void)!read(ready[0], &byte, 1);
  close(ready[0]);
  close(ready[1]);
  return pid;
}

static void end(pid_t pid) {
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

static void become_nobody() {
  (void)!setgroups(0, nullptr);
  (void)!setresgid(kNobody, kNobody, kNobody);
  (void)!setresuid(kNobody, kNobody, kNobody);
  prctl(PR_SET_DUMPABLE, 1);
}

// What the kernel says to a process with the caller's credentials.
static bool kernel_allows(const std::function<void()>& prepare, pid_t target) {
  const pid_t pid = fork();
  if (pid == 0) {
    prepare();
    char path[40];
    snprintf(path, sizeof(path), "/proc/%d/auxv", target);
    _exit(open(path, O_RDONLY) >= 0 ? 0 : 1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WEXITSTATUS(status) == 0;
}

int main() {
  ok(check_access({getuid(), getgid(), getpid()}, getpid(), Touch::kSee) == 0, "oneself");
  ok(check_access({0, 0, 0}, getpid(), Touch::kSee) == EACCES, "a caller of another pid namespace");
  if (geteuid() != 0) {
    tap::ok(true, "the rest needs root # SKIP");
    return tap::done();
  }
  const auto stay_root = [] {};
  const auto hidden = [] {
    become_nobody();
    prctl(PR_SET_DUMPABLE, 0);
  };
  const auto half = [] { (void)!setresuid(0, kNobody, 0); };
  const auto sandboxed = [] {
    become_nobody();
    (void)!unshare(CLONE_NEWUSER);
  };
  const struct {
    const char* name;
    uint32_t uid, gid;
    std::function<void()> prepare;
  } kinds[] = {{"root", 0, 0, stay_root},
               {"nobody", kNobody, kNobody, become_nobody},
               {"not dumpable", kNobody, kNobody, hidden},
               {"half nobody", kNobody, 0, half},
               {"own user namespace", kNobody, kNobody, sandboxed}};
  for (const auto& caller : kinds) {
    for (const auto& target : kinds) {
      const pid_t from = start(caller.prepare);
      const pid_t to = start(target.prepare);
      const Caller who = {caller.uid, caller.gid, from};
      const bool ours = check_access(who, to, Touch::kSee) == 0;
      const bool theirs = kernel_allows(caller.prepare, to);
      // Where user namespaces nest, ours may be stricter, never laxer.
      const std::string name = std::string(caller.name) + " looks at " + target.name +
                               (ours ? ": yes" : ": no") +
                               (theirs ? ", kernel yes" : ", kernel no");
      ok(ours == theirs || (!ours && std::string(target.name) == "own user namespace"),
         name.c_str());
      end(from);
      end(to);
    }
  }
  const pid_t gone = start(stay_root);
  end(gone);
  const pid_t nobody = start(become_nobody);
  tap::equal(check_access({kNobody, kNobody, nobody}, gone, Touch::kSee), ESRCH, "a dead target");
  end(nobody);
  ok(read_proc_stat(2)->kernel_thread, "pid 2 is a kernel thread");
  ok(!read_proc_stat(getpid())->kernel_thread, "we are not");
  return tap::done();
}

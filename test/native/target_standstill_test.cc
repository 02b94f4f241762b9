// SPDX-License-Identifier: MIT
// Whether a thread has run since it was looked at, asked without stopping it.
#include "../../native/target/standstill.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "tap.h"

using bpftime::target::Standstill;

namespace {

void on_signal(int) {}

bool is_asleep(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  char state = '?';
  FILE* const file = fopen(path.c_str(), "re");
  if (file == nullptr) return false;
  const int got = fscanf(file, "%*d %*s %c", &state);
  fclose(file);
  return got == 1 && state == 'S';
}

void until_asleep(pid_t pid) {
  for (int i = 0; i < 5000 && !is_asleep(pid); ++i) usleep(1000);
}

// As a stop finds it: seized, interrupted, and let go again when it has been noted.
void note(Standstill* still, pid_t pid) {
  int status = 0;
  user_regs_struct regs{};
  ptrace(PTRACE_SEIZE, pid, nullptr, nullptr);
  ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr);
  waitpid(pid, &status, __WALL);
  ptrace(PTRACE_GETREGS, pid, nullptr, &regs);
  still->add(pid, pid, regs);
  ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
  until_asleep(pid);
}

template <typename Work>
pid_t start(Work work) {
  const pid_t pid = fork();
  if (pid == 0) {
    signal(SIGUSR1, on_signal);
    for (;;) work();
  }
  until_asleep(pid);
  return pid;
}

void end(pid_t pid) {
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

void a_sleeper() {
  const pid_t pid = start([] { pause(); });
  Standstill still;
  note(&still, pid);
  tap::ok(!still.empty(), "noted");
  tap::ok(still.moved().empty(), "asleep at the same place: the stop itself does not count");
  usleep(50'000);
  tap::ok(still.moved().empty(), "and still");
  kill(pid, SIGUSR1);  // a turn of the loop: to the same place, and asleep once more
  usleep(50'000);
  until_asleep(pid);
  tap::ok(still.moved().size() == 1 && still.moved()[0] == pid, "has run and sleeps there again");
  still.forget({pid});
  tap::ok(still.empty(), "forgotten");
  note(&still, pid);
  tap::ok(still.moved().empty(), "noted again, it has not moved");
  end(pid);
  tap::ok(still.moved().size() == 1, "gone is moved");
}

void a_runner() {
  const pid_t pid = fork();
  if (pid == 0) {
    for (;;) {
    }
  }
  Standstill still;
  user_regs_struct regs{};
  still.add(pid, pid, regs);
  tap::ok(still.moved().size() == 1, "who runs has moved");
  end(pid);
}

void another_place() {
  int ends[2];
  if (pipe(ends) != 0) return;
  const pid_t pid = start([&] {
    char byte = 0;
    if (read(ends[0], &byte, 1) == 1) pause();
  });
  Standstill still;
  note(&still, pid);
  tap::ok(still.moved().empty(), "sleeps in read");
  if (write(ends[1], "x", 1) != 1) return;
  usleep(50'000);
  until_asleep(pid);
  tap::ok(still.moved().size() == 1, "sleeps in pause");
  end(pid);
}

}  // namespace

int main() {
  a_sleeper();
  a_runner();
  another_place();
  return tap::done();
}

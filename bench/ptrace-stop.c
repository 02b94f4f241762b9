// SPDX-License-Identifier: MIT
// The least that stopping a process can cost: each thread is seized, then all are interrupted,
// waited for, asked for their registers and let go, and nothing else is done. The floor under our
// pauses. Usage: ptrace-stop    Commands on stdin, one answer line each:
//   stop PID   -> microseconds from the first interrupt to the last detach
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

enum { kMaxThreads = 4096 };

static pid_t tids[kMaxThreads];

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int seize_all(int pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR* dir = opendir(path);
  if (dir == NULL) return 0;
  int count = 0;
  for (struct dirent* entry; (entry = readdir(dir)) != NULL && count < kMaxThreads;) {
    const pid_t tid = atoi(entry->d_name);
    if (tid > 0 && ptrace(PTRACE_SEIZE, tid, NULL, NULL) == 0) tids[count++] = tid;
  }
  closedir(dir);
  return count;
}

static double stop_all(int pid) {
  const int count = seize_all(pid);
  const double start = now_us();
  for (int i = 0; i < count; i++) ptrace(PTRACE_INTERRUPT, tids[i], NULL, NULL);
  for (int i = 0; i < count; i++) {
    struct user_regs_struct regs;
    waitpid(tids[i], NULL, __WALL);
    ptrace(PTRACE_GETREGS, tids[i], NULL, &regs);
  }
  for (int i = 0; i < count; i++) ptrace(PTRACE_DETACH, tids[i], NULL, NULL);
  return now_us() - start;
}

int main(void) {
  char line[64];
  int pid;
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("ready");
  while (fgets(line, sizeof line, stdin) != NULL) {
    if (sscanf(line, "stop %d", &pid) == 1) printf("%.2f\n", stop_all(pid));
  }
  return 0;
}

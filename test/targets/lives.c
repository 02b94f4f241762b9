// SPDX-License-Identifier: MIT
// A program with several lives: prints `round N` per turn; SIGUSR1 makes it execute itself anew,
// SIGUSR2 makes it fork a child that works on its own, prints `child N` and exits with 0 after some
// thousand correct results (400 turns of 2 ms, or as many as the argument says, or until SIGUSR1).
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t wants_exec, wants_fork;
static void on_exec(int sig) {
  (void)sig;
  wants_exec = 1;
}
static void on_fork(int sig) {
  (void)sig;
  wants_fork = 1;
}

__attribute__((noinline)) long work(long n) {
  __asm__ volatile("" ::: "memory");
  return n < 3 ? n : work(n - 1) + 1;
}

static int child(int turns) {
  for (int turn = 1; turn <= turns && !wants_exec; ++turn) {
    for (int i = 0; i < 10; ++i) {
      if (work(20) != 20) return 3;
    }
    if (turn % 20 == 0) printf("child %d\n", turn);
    usleep(2000);
  }
  return 0;
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGUSR1, on_exec);
  signal(SIGUSR2, on_fork);
  printf("born\n");
  for (long round = 1;; ++round) {
    if (work(20) != 20) return 1;
    printf("round %ld\n", round);
    if (wants_exec) execv("/proc/self/exe", argv);
    if (wants_fork) {
      wants_fork = 0;
      const pid_t pid = fork();
      if (pid == 0) _exit(child(argc > 1 ? atoi(argv[1]) : 400));
      printf("forked %d\n", pid);
    }
    int status;
    if (waitpid(-1, &status, WNOHANG) > 0) {
      printf("child ended with %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    }
    usleep(5000);
  }
}

// SPDX-License-Identifier: MIT
// Calls work() from THREADS threads as fast as it can between the lines `go` and `stop` on its
// standard input, then prints `calls N`, the exact number of calls so far. `round N` meanwhile.
// Usage: caller THREADS
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 16

static atomic_int going, running;
static atomic_long calls;

__attribute__((noinline)) long work(long n) {
  __asm__ volatile("" ::: "memory");
  return n * 3 + 1;
}

static void* caller(void* arg) {
  for (;;) {
    if (!atomic_load(&going)) {
      usleep(1000);
      continue;
    }
    atomic_fetch_add(&running, 1);
    long done = 0;
    for (; atomic_load(&going); ++done) {
      if (work(done) != done * 3 + 1) _exit(3);
      // Leaves the processor to whoever exchanges the code below us.
      if (done % 64 == 0) usleep(50);
    }
    atomic_fetch_add(&calls, done);
    atomic_fetch_sub(&running, 1);
  }
  return arg;
}

static void* rounds(void* arg) {
  for (long round = 1;; ++round) {
    printf("round %ld\n", round);
    usleep(20000);
  }
  return arg;
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  pthread_t thread;
  for (int i = 0; i < threads && i < THREADS_MAX; ++i) pthread_create(&thread, NULL, caller, NULL);
  pthread_create(&thread, NULL, rounds, NULL);
  char line[64];
  while (fgets(line, sizeof line, stdin) != NULL) {
    if (strcmp(line, "go\n") == 0) atomic_store(&going, 1);
    if (strcmp(line, "stop\n") != 0) continue;
    atomic_store(&going, 0);
    do {
      usleep(20000);
    } while (atomic_load(&running) != 0);
    printf("calls %ld\n", atomic_load(&calls));
  }
  return 0;
}

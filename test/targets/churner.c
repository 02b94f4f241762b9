// SPDX-License-Identifier: MIT
// Threads that come and go: CREATORS threads start one thread after another, each of which calls
// work() a few times and ends. Prints `round N` (threads so far); `WRONG what` ends it.
// Usage: churner CREATORS PAUSE_US
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long threads;
static unsigned pause_us;

static void wrong(const char* what, int err) {
  printf("WRONG %s: %s\n", what, strerror(err));
  fflush(stdout);
  _exit(1);
}

__attribute__((noinline)) long work(long n) {
  __asm__ volatile("" ::: "memory");
  return n < 3 ? n : work(n - 1) + 1;
}

static void* brief(void* arg) {
  for (int i = 0; i < 20; ++i) {
    if (work(20) != 20) wrong("work", 0);
  }
  return arg;
}

static void* creator(void* arg) {
  for (;;) {
    pthread_t thread;
    int err = pthread_create(&thread, NULL, brief, arg);
    if (err != 0) wrong("pthread_create", err);
    void* result = NULL;
    err = pthread_join(thread, &result);
    if (err != 0 || result != arg) wrong("pthread_join", err);
    atomic_fetch_add(&threads, 1);
    if (pause_us != 0) usleep(pause_us);
  }
  return arg;
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const int creators = argc > 1 ? atoi(argv[1]) : 1;
  pause_us = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
  for (int i = 0; i < creators; ++i) {
    pthread_t thread;
    const int err = pthread_create(&thread, NULL, creator, &threads);
    if (err != 0) wrong("pthread_create", err);
  }
  for (;;) {
    usleep(50000);
    printf("round %ld\n", atomic_load(&threads));
  }
}

// SPDX-License-Identifier: MIT
// One thread lingers in a function for long, which ends in a jump; another waits again and again, a
// little shorter, in a call whose time-out begins anew when it is stopped. Prints `outside` and
// `inside`, and `woke MS` for each wait.
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { LINGER_MS = 12000, OUTSIDE_MS = 2000, WAIT_MS = 2500 };

static long now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void sleep_ms(long ms) {
  struct timespec left = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&left, &left) != 0) {
  }
}

__attribute__((noinline, used)) long finish(long n) {
  __asm__ volatile("" ::: "memory");
  return n + 1;
}

__attribute__((noinline, used)) long linger(long ms) {
  printf("inside\n");
  sleep_ms(ms);
  return finish(ms);
}

static void* waits(void* arg) {
  const int fd = epoll_create1(0);
  for (;;) {
    struct epoll_event event;
    const long started = now_ms();
    if (epoll_wait(fd, &event, 1, WAIT_MS) != 0) printf("WRONG\n");
    printf("woke %ld\n", now_ms() - started);
  }
  return arg;
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  pthread_t thread;
  if (pthread_create(&thread, NULL, waits, NULL) != 0) return 2;
  for (;;) {
    printf("outside\n");
    sleep_ms(OUTSIDE_MS);
    linger(LINGER_MS);
  }
}

// SPDX-License-Identifier: MIT
// Functions to be answered in their place; prints what they return, `round N plain 8 ...`. With an
// argument that many threads call plain() without pause: its result is the own or 42, or WRONG.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// noipa: a compiler that has seen both sides may keep values in registers of other arguments.
#define SHAPE __attribute__((noipa, used))

struct two {
  long first, second;
};

SHAPE long plain(long n) {
  __asm__ volatile("" : "+r"(n));
  return n + 1;
}
SHAPE long seven(long a, long b, long c, long d, long e, long f, long g) {
  __asm__ volatile("" : "+r"(a));
  return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f + 1000000 * g;
}
SHAPE struct two pair(long n) {
  __asm__ volatile("" : "+r"(n));
  return (struct two){n, 2 * n};
}
SHAPE long leaves_by_jump(long n) { return plain(n + 100); }

static void* spin(void* unused) {
  for (long n = 0;; ++n) {
    const long got = plain(n & 1023);
    if (got != (n & 1023) + 1 && got != 42) {
      printf("WRONG plain(%ld) = %ld\n", n & 1023, got);
      fflush(stdout);
      _exit(1);
    }
  }
  return unused;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 0;
  for (int i = 0; i < threads; ++i) {
    pthread_t thread;
    pthread_create(&thread, 0, spin, 0);
  }
  for (int round = 1;; ++round) {
    const struct two two = pair(5);
    printf("round %d plain %ld %ld seven %ld pair %ld %ld jump %ld\n", round, plain(7), plain(3),
           seven(1, 2, 3, 4, 5, 6, 7), two.first, two.second, leaves_by_jump(7));
    fflush(stdout);
    usleep(20000);
  }
}

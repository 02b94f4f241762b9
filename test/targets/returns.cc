// SPDX-License-Identifier: MIT
// Ways out of functions: a ret behind a sleep (for debuggers to look at), a jump to another
// function that returns or throws. Prints `round N`; a wrong result ends it with WRONG.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include <unistd.h>

#define SHAPE extern "C" __attribute__((noinline, used, noclone))

SHAPE long sleeps_long(long n) {
  for (long i = 0; i < n; ++i) usleep(20000);
  return n + 1;
}
SHAPE long calls_sleeper(long n) {
  const long got = sleeps_long(n);
  return got * 2;
}
SHAPE long may_throw(long n) {
  if (n % 2 == 1) throw std::runtime_error("odd");
  return n;
}
extern "C" __attribute__((noinline, cold)) void rarely(long* n) { *n += 5; }
// A part of it stands among cold code, and comes back from there.
SHAPE long goes_cold(long n) {
  if (__builtin_expect(n > 1000, 0)) {
    rarely(&n);
    n *= 3;
  }
  long sum = 0;
  for (long i = 0; i < n % 7; ++i) sum += may_throw(2 * i);
  return sum + n;
}
SHAPE long leaves_by_jump(long n) { return may_throw(n + 1); }

SHAPE long leaves_for_sleep(long n) { return sleeps_long(n + 1); }
SHAPE long calls_leaver(long n, long a, long b, long c, long d, long e, long on_stack) {
  return leaves_for_sleep(n + a + b + c + d + e) + on_stack;
}

static void wrong(const char* what) {
  printf("WRONG %s\n", what);
  fflush(stdout);
  _exit(1);
}

int main() {
  for (int round = 1;; ++round) {
    if (calls_sleeper(3) != 8) wrong("calls_sleeper");
    if (leaves_by_jump(1) != 2) wrong("leaves_by_jump");
    if (calls_leaver(1, 0, 0, 0, 0, 1, 5) != 9) wrong("calls_leaver");
    if (goes_cold(3) != 9 || goes_cold(2000) != 6017) wrong("goes_cold");
    int caught = 0;
    try {
      leaves_by_jump(2);
    } catch (const std::runtime_error&) {
      caught = 1;
    }
    if (caught != 1) wrong("the exception");
    printf("round %d\n", round);
    fflush(stdout);
  }
}

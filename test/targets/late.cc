// SPDX-License-Identifier: MIT
// A function that is still running when its probes are removed, and then ends by an exception.
// `go` on standard input lets it; prints `inside`, then `caught` when all is well, again and again.
#include <stdio.h>
#include <unistd.h>

#include <stdexcept>

extern "C" __attribute__((noinline, used)) long inner(long n) {
  char line[16];
  printf("inside\n");
  if (read(0, line, sizeof line) <= 0) _exit(0);
  __asm__ volatile("" ::: "memory");
  throw std::runtime_error("late");
  return n;
}

extern "C" __attribute__((noinline, used)) long outer(long n) {
  const long result = inner(n);
  __asm__ volatile("" ::: "memory");
  return result + 1;
}

int main() {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  for (long round = 1;; ++round) {
    try {
      outer(round);
    } catch (const std::runtime_error&) {
      printf("caught\nround %ld\n", round);
    }
  }
}

/* SPDX-License-Identifier: MIT */
/* Works for profilers to look at: main calls outer, that calls middle, that calls burns, and each
 * has work to do after it. Prints `round N`. */
#include <stdio.h>

#define SHAPE __attribute__((noinline, used, noclone))
#define KEEP __asm__ volatile("" ::: "memory")

static volatile long sink;
static void* volatile frame;

SHAPE long burns(long n) {
  /* gcc gives a leaf no frame unless it is asked for; without one nobody sees its caller. */
  frame = __builtin_frame_address(0);
  for (long i = 0; i < n; ++i) sink += i & 3;
  return n;
}
SHAPE long middle(long n) {
  const long got = burns(n);
  KEEP;
  return got + 1;
}
SHAPE long outer(long n) {
  const long got = middle(n);
  KEEP;
  return got + 1;
}

int main(void) {
  for (long round = 1;; ++round) {
    if (outer(20000) != 20002) {
      printf("WRONG\n");
      return 1;
    }
    if (round % 256 != 0) continue;
    printf("round %ld\n", round);
    fflush(stdout);
  }
}

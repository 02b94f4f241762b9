// SPDX-License-Identifier: MIT
// Calls speak() with known arguments, in turns, two frames below main; prints its addresses first
// and `round N` per turn.
#include <stdio.h>
#include <unistd.h>

struct point {
  int x, y;
};
enum mood { CALM = 0, LOUD = 7 };

__attribute__((noinline)) long speak(const char* text, const struct point* at, enum mood mood) {
  __asm__ volatile("" : : "r"(text), "r"(at) : "memory");
  return at->x + at->y + (long)mood;
}

__attribute__((noinline)) long caller(long round) {
  const struct point at = {(int)(round % 3), -5};
  const long sum = speak(round % 2 ? "odd words" : "even words", &at, round % 2 ? LOUD : CALM);
  __asm__ volatile("" ::: "memory");
  return sum - at.x;
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("speak %p caller %p\n", (void*)speak, (void*)caller);
  for (long round = 1;; ++round) {
    if (caller(round) != (round % 2 ? 2 : -5)) return 1;
    printf("round %ld\n", round);
    usleep(2000);
  }
}

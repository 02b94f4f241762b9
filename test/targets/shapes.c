// SPDX-License-Identifier: MIT
// Functions with names and lengths that a probe must refuse, or treat with care, around a loop that
// keeps calling them. Prints `round N` per turn. Built together with twin.c.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

long twin_elsewhere(long n);

__attribute__((noinline, used)) static long twin(long n) {
  __asm__ volatile("" ::: "memory");
  return n * 3 + 1;
}

// One byte: no room for a jump, and what follows it is somebody else's.
__asm__(
    ".globl tiny\n.type tiny, @function\ntiny: ret\n.size tiny, .-tiny\n"
    ".globl after_tiny\n.type after_tiny, @function\nafter_tiny: mov $0, %eax\nret\n"
    ".size after_tiny, .-after_tiny\n");
void tiny(void);
int after_tiny(void);

// 0: push %rbp  1: mov %rsp,%rbp  4: mov $7,%eax  9: pop %rbp  10: ret
__asm__(
    ".globl steps\n.type steps, @function\nsteps: push %rbp\nmov %rsp, %rbp\nmov $7, %eax\n"
    "pop %rbp\nret\n.size steps, .-steps\n");
int steps(void);

__attribute__((noinline)) long work(long n) {
  char copy[16];
  memset(copy, (int)n, sizeof copy);
  __asm__ volatile("" ::"r"(copy) : "memory");
  return n + copy[3];
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (long round = 1;; ++round) {
    tiny();
    if (work(round) != round + (char)round || steps() != 7 || after_tiny() != 0) return 1;
    if (twin(round) + twin_elsewhere(round) != round * 8 + 3) return 1;
    printf("round %ld\n", round);
    usleep(5000);
  }
}

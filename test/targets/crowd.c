// SPDX-License-Identifier: MIT
// Five thousand functions, f_0000 to f_4999. The line `N` on standard input calls each of them N
// times, checks what it returns, and prints `called N`.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define FIVE(m, p, d0, d1, d2, d3, d4) m(p##d0) m(p##d1) m(p##d2) m(p##d3) m(p##d4)
#define TEN(m, p) FIVE(m, p, 0, 1, 2, 3, 4) FIVE(m, p, 5, 6, 7, 8, 9)
#define TENS(m, p, d0, d1, d2, d3, d4) \
  TEN(m, p##d0) TEN(m, p##d1) TEN(m, p##d2) TEN(m, p##d3) TEN(m, p##d4)
#define HUNDRED(m, p) TENS(m, p, 0, 1, 2, 3, 4) TENS(m, p, 5, 6, 7, 8, 9)
#define HUNDREDS(m, p, d0, d1, d2, d3, d4) \
  HUNDRED(m, p##d0) HUNDRED(m, p##d1) HUNDRED(m, p##d2) HUNDRED(m, p##d3) HUNDRED(m, p##d4)
#define THOUSAND(m, p) HUNDREDS(m, p, 0, 1, 2, 3, 4) HUNDREDS(m, p, 5, 6, 7, 8, 9)
#define ALL(m) THOUSAND(m, 0) THOUSAND(m, 1) THOUSAND(m, 2) THOUSAND(m, 3) THOUSAND(m, 4)

#define DEFINE(n) \
  __attribute__((noinline, aligned(32))) long f_##n(long a) { return a * 3 + 1##n; }
#define ENTRY(n) {f_##n, 1##n},

ALL(DEFINE)
static const struct {
  long (*function)(long);
  long sum;
} functions[] = {ALL(ENTRY)};

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("ready");
  char line[64];
  while (fgets(line, sizeof line, stdin) != NULL) {
    const long times = atol(line);
    for (long turn = 0; turn < times; turn++) {
      for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (functions[i].function(turn) != turn * 3 + functions[i].sum) _exit(3);
      }
    }
    printf("called %ld\n", times);
  }
  return 0;
}

// SPDX-License-Identifier: MIT
// Calls ifuncs exactly CALLS times for each line of standard input, and nothing else of libc that
// could call them. `picked` is one of a library whose callers are bound at their first call; the
// line `p` makes that call.
#include <stddef.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { CALLS = 1000 };

#ifdef LIBRARY
static long picked_here(long x) {
  volatile long y = x;
  return y * 2 + 1;
}
#ifdef FICKLE
// Chooses another one each time that it is asked: whoever binds second has the second.
static long picked_there(long x) {
  volatile long y = x, one = 1;
  return y + y + one;
}
static int asked;
static long (*choose(void))(long) { return asked++ % 2 == 0 ? picked_here : picked_there; }
#else
static long (*choose(void))(long) { return picked_here; }
#endif
long picked(long x) __attribute__((ifunc("choose")));
// Never called: its slot leads into the stub of the library that defines the ifunc.
long picked_by_itself(long x) { return picked(x) + 1; }
#else

#ifdef WITH_LIBRARY
long picked(long x);
#else
static long picked(long x) { return x * 2 + 1; }
#endif

static void say_round(unsigned n) {
  char text[32] = "round ";
  size_t at = 6;
  for (unsigned power = 100; power > 0; power /= 10) text[at++] = (char)('0' + n / power % 10);
  text[at++] = '\n';
  if (write(1, text, at) < 0) _exit(1);
}

int main(void) {
  static char from[64] = "some text of a length that is known", to[64];
  struct timeval now;
  gettimeofday(&now, NULL);
  say_round(1);
  char line[2];
  for (unsigned n = 2; read(0, line, sizeof line) > 0; ++n) {
    for (volatile int i = 0; i < CALLS; ++i) {
      memset(to, i & 0x7f, sizeof to);
      if (memcpy(to, from, sizeof to) != to || strlen(to) != 35) {
        if (write(1, "WRONG\n", 6) < 0) _exit(1);
      }
    }
    for (int i = 0; line[0] == 'p' && i < CALLS; ++i) {
      if (picked(i) != i * 2L + 1 && write(1, "WRONG\n", 6) < 0) _exit(1);
    }
    say_round(n);
  }
  return 0;
}
#endif

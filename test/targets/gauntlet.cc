// SPDX-License-Identifier: MIT
// A process that calls functions of every awkward shape in a loop and checks each result: nested
// and recursive calls, stack arguments, structs, varargs, floating point, tail calls, signals,
// exceptions, longjmp, coroutines, thread cancellation. Prints `round N` per round; any wrong
// result ends it with `WRONG <what>` and status 1. Usage: gauntlet THREADS
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>

#define SHAPE extern "C" __attribute__((noinline, used))
#define KEEP __asm__ volatile("" ::: "memory")

struct Big {
  long values[8];
};

SHAPE long recurse(long n) {
  KEEP;
  return n == 0 ? 0 : n + recurse(n - 1);
}
SHAPE long many_args(long a, long b, long c, long d, long e, long f, long g, long h, long i,
                     long j) {
  KEEP;
  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + 10 * j;
}
SHAPE Big big_struct(long seed) {
  KEEP;
  Big big;
  for (int i = 0; i < 8; ++i) big.values[i] = seed * i;
  return big;
}
SHAPE long sum_varargs(int count, ...) {
  va_list list;
  va_start(list, count);
  long sum = 0;
  for (int i = 0; i < count; ++i) sum += va_arg(list, long);
  va_end(list);
  return sum;
}
SHAPE double mixed_floats(double a, float b, int c, double d) {
  KEEP;
  return a * b + c * d;
}
SHAPE double sum_doubles(int count, ...) {
  va_list list;
  va_start(list, count);
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += va_arg(list, double);
  va_end(list);
  return sum;
}
SHAPE long tail_target(long n) {
  KEEP;
  return n * 7;
}
SHAPE long tail_caller(long n) {
  KEEP;
  return tail_target(n + 1);
}
SHAPE long thrower(long n) {
  KEEP;
  if (n == 0) throw std::runtime_error("thrown");
  return thrower(n - 1) + 1;
}
SHAPE long catcher(long n) {
  try {
    return thrower(n);
  } catch (const std::runtime_error& error) {
    return strcmp(error.what(), "thrown") == 0 ? n : -1;
  }
}
thread_local jmp_buf jump_target;
SHAPE long jumper(long n) {
  KEEP;
  if (n == 0) longjmp(jump_target, 5);
  return jumper(n - 1) + 1;
}
SHAPE long jump_catcher(long n) {
  if (setjmp(jump_target) == 0) return jumper(n);
  return n;
}
SHAPE long in_signal(long n) {
  KEEP;
  return n ^ 0x55;
}
std::atomic<long> signals_taken;
void on_alarm(int) {
  const long now = ++signals_taken;
  if (in_signal(now) != (now ^ 0x55)) _exit(9);
}

struct Coroutine {
  ucontext_t self, back;
  char* stack;
  long value;
};
thread_local Coroutine* current;
SHAPE long yield_value(long n) {
  KEEP;
  current->value = n;
  swapcontext(&current->self, &current->back);
  return n + 1;
}
void coroutine_body() {
  for (long i = 0;; ++i) {
    if (yield_value(i) != i + 1) _exit(8);
  }
}
SHAPE long resume(Coroutine* coroutine) {
  current = coroutine;
  swapcontext(&coroutine->back, &coroutine->self);
  return coroutine->value;
}
SHAPE void* cancelled_body(void* arg) {
  for (;;) usleep(1000);
  return arg;
}
SHAPE long long_loop(long n) {
  long sum = 0;
  do {
    sum += n;
    KEEP;
  } while (--n > 0);
  return sum;
}

std::atomic<long> rounds;

void wrong(const char* what) {
  printf("WRONG %s\n", what);
  fflush(stdout);
  _exit(1);
}

void init_coroutine(Coroutine* coroutine) {
  getcontext(&coroutine->self);
  coroutine->stack = static_cast<char*>(malloc(64 << 10));
  coroutine->self.uc_stack.ss_sp = coroutine->stack;
  coroutine->self.uc_stack.ss_size = 64 << 10;
  coroutine->self.uc_link = nullptr;
  makecontext(&coroutine->self, coroutine_body, 0);
}

void one_round(long round, Coroutine* coroutines) {
  if (recurse(100) != 5050) wrong("recurse");
  if (many_args(1, 2, 3, 4, 5, 6, 7, 8, 9, 10) != 385) wrong("many_args");
  if (big_struct(round).values[7] != 7 * round) wrong("big_struct");
  if (sum_varargs(9, 1L, 2L, 3L, 4L, 5L, 6L, 7L, 8L, 9L) != 45) wrong("sum_varargs");
  if (mixed_floats(2.0, 3.5f, 4, 0.25) != 8.0) wrong("mixed_floats");
  if (sum_doubles(9, 1., 2., 3., 4., 5., 6., 7., 8., 9.) != 45.0) wrong("sum_doubles");
  if (tail_caller(round) != (round + 1) * 7) wrong("tail_caller");
  if (catcher(5) != 5) wrong("catcher");
  if (jump_catcher(5) != 5) wrong("jump_catcher");
  if (long_loop(10) != 55) wrong("long_loop");
  for (int i = 0; i < 3; ++i) {
    if (resume(&coroutines[i]) != round) wrong("coroutine");
  }
}

void* worker(void*) {
  Coroutine coroutines[3];
  for (auto& coroutine : coroutines) init_coroutine(&coroutine);
  for (long round = 0;; ++round) {
    one_round(round, coroutines);
    if (round % 64 == 0) {
      pthread_t victim;
      if (pthread_create(&victim, nullptr, cancelled_body, nullptr) == 0) {
        usleep(200);
        pthread_cancel(victim);
        pthread_join(victim, nullptr);
      }
    }
    ++rounds;
  }
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  struct sigaction action = {};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval every{{0, 2000}, {0, 2000}};
  setitimer(ITIMER_REAL, &every, nullptr);
  for (int i = 0; i < threads; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, worker, nullptr) != 0) return 2;
  }
  for (;;) {
    usleep(100000);
    printf("round %ld\n", rounds.load());
  }
}

// SPDX-License-Identifier: MIT
// Calls that end in every way, as told on stdin: `return N`, `throw N`, `jump N` (longjmp), `cancel
// N` (pthread_cancel of a thread inside), `deep N` (an exception through N frames of one function).
// Each line is answered with `did WORD N`. A wrong result ends the process with WRONG.
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include <pthread.h>
#include <unistd.h>

#define SHAPE extern "C" __attribute__((noinline, used, noclone))

static jmp_buf back;

SHAPE long leaf(long mode) {
  if (mode == 1) throw std::runtime_error("thrown");
  if (mode == 2) longjmp(back, 1);
  while (mode == 3) usleep(1000);
  return mode + 1;
}
// Leaves by a jump: its return address has to be replaced.
SHAPE long by_jump(long mode) { return leaf(mode + 0); }
// Leaves by a ret.
SHAPE long by_ret(long mode) {
  const long got = leaf(mode);
  asm volatile("" ::: "memory");
  return got + 1;
}
SHAPE long descend(long n) {
  if (n == 0) throw std::runtime_error("thrown");
  const long got = descend(n - 1);
  asm volatile("" ::: "memory");
  return leaf(got);
}

static void wrong(const char* what) {
  printf("WRONG %s\n", what);
  fflush(stdout);
  _exit(1);
}

static void both(long mode) {
  if (by_jump(mode) != mode + 1 || by_ret(mode) != mode + 2) wrong("a result");
}
static void throws(long (*fn)(long), long arg) {
  try {
    fn(arg);
  } catch (const std::runtime_error&) {
    return;
  }
  wrong("no exception");
}
static void jumps(long (*fn)(long)) {
  if (setjmp(back) != 0) return;
  fn(2);
  wrong("no jump");
}
static void* sleeps(void* arg) {
  reinterpret_cast<long (*)(long)>(arg)(3);
  return nullptr;
}
static void cancels(long (*fn)(long)) {
  pthread_t thread;
  pthread_create(&thread, nullptr, sleeps, reinterpret_cast<void*>(fn));
  usleep(20000);
  pthread_cancel(thread);
  void* result = nullptr;
  pthread_join(thread, &result);
  if (result != PTHREAD_CANCELED) wrong("not cancelled");
}

int main() {
  printf("ready\n");
  fflush(stdout);
  char word[16];
  long count = 0;
  while (scanf("%15s %ld", word, &count) == 2) {
    const bool is_deep = strcmp(word, "deep") == 0;
    if (is_deep) throws(descend, count);
    for (long i = 0; i < count && !is_deep; ++i) {
      for (long (*fn)(long) : {by_jump, by_ret}) {
        if (strcmp(word, "throw") == 0) throws(fn, 1);
        if (strcmp(word, "jump") == 0) jumps(fn);
        if (strcmp(word, "cancel") == 0) cancels(fn);
      }
      if (strcmp(word, "return") == 0) both(0);
    }
    printf("did %s %ld\n", word, count);
    fflush(stdout);
  }
}

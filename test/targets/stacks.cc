// SPDX-License-Identifier: MIT
// Says by backtrace(3) from where it calls write(2) of libc, with a descriptor that is none: case N
// has -N. Built without frame pointers. Cases: functions, libc, a signal handler, a landing pad, a
// thread, a module that is loaded later (argument 1), code that no table knows, a function whose
// return is probed.
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#define FRAME __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls")))

static volatile long sink;

// The first address is here, as the second one of the stack at write's entry is.
extern "C" FRAME __attribute__((visibility("default"))) void tell(int number) {
  void* addrs[64];
  char line[64 * 20];
  // Whoever asks the unwinder has replaced return addresses put back.
  if (number == 8) sink = write(-number, line, 1);
  const int count = backtrace(addrs, 64);
  int len = snprintf(line, sizeof line, "case %d:", number);
  for (int i = 0; i < count; ++i) {
    len += snprintf(line + len, sizeof line - len, " %p", addrs[i]);
  }
  puts(line);
  if (number != 8) sink = write(-number, line, 1);
}

// Leaves by a jump: where it returns to is replaced while its return is probed.
extern "C" __attribute__((noinline, noclone)) long ends(long n) {
  sink = n;
  return n;
}
extern "C" __attribute__((noinline, noclone)) long leaves(long n) {
  if (n > 0) tell(8);
  return ends(n + 1);
}

extern "C" FRAME long followed(long n, int number) {
  if (n == 0) {
    tell(number);
    return sink;
  }
  char room[56];
  memset(room, static_cast<int>(n), sizeof room);
  sink = room[n];
  return followed(n - 1, number) + room[n];
}

FRAME int compare(const void* a, const void* b) {
  tell(2);
  return *static_cast<const int*>(a) - *static_cast<const int*>(b);
}
static void on_signal(int) { tell(3); }

FRAME void throws(long n) {
  if (n > 0) throw std::runtime_error("n");
  sink = n;
}
struct Tells {
  ~Tells() { tell(4); }
};
FRAME void passes(long n) {
  Tells while_unwinding;
  throws(n);
}
static void* in_thread(void*) {
  followed(2, 5);
  return nullptr;
}

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  // push rbp; mov rbp, rsp; call rdi; pop rbp; ret
  static const unsigned char kCode[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(page, kCode, sizeof kCode);
  mprotect(page, 4096, PROT_READ | PROT_EXEC);
  signal(SIGUSR1, on_signal);
  printf("unknown %p\n", page);
  char word[64];
  while (fgets(word, sizeof word, stdin) != nullptr) {
    followed(4, 1);
    sink = leaves(argc) + 1;
    sink = leaves(0) + 1;
    int numbers[] = {2, 1};
    qsort(numbers, 2, sizeof numbers[0], compare);
    raise(SIGUSR1);
    try {
      passes(argc);
    } catch (const std::runtime_error&) {
    }
    pthread_t thread;
    pthread_create(&thread, nullptr, in_thread, nullptr);
    pthread_join(thread, nullptr);
    if (argc > 1) {
      void* module = dlopen(argv[1], RTLD_NOW);
      using Entry = void(void (*)(int), int);
      if (module != nullptr) reinterpret_cast<Entry*>(dlsym(module, "calls_back"))(tell, 6);
      if (module != nullptr) dlclose(module);
    }
    reinterpret_cast<void (*)(void (*)())>(page)([] { tell(7); });
    puts("told");
  }
}

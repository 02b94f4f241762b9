// SPDX-License-Identifier: MIT
// The process that benchmarks probe: on request it times calls of its own functions.
// Each function differs in its first instruction, which is what a kernel uprobe's cost hangs on.
// Usage: target CPU        CPU -1: not pinned. Commands on stdin, one answer line each:
//   time FUNCTION BATCHES BATCH_NS   -> median min max (ns of thread CPU time per call) calls
//   threads N                        -> ok, once N further threads sleep
// No I/O and no allocation between the two clock readings of a batch.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { kMaxBatches = 1001, kMinCalls = 64, kMaxCalls = 1000000, kStackBytes = 64 * 1024 };

// clang-format off
#define FUNCTION(name, first)           \
  ".balign 64\n"                        \
  ".globl " name "\n"                   \
  ".type " name ", @function\n"         \
  name ":\n" first                      \
  "  mov %rsp, %rbp\n"                  \
  "  lea 1(%rdi), %rax\n"               \
  "  pop %rbp\n"                        \
  "  ret\n"                             \
  ".size " name ", . - " name "\n"

__asm__(
    ".text\n"
    FUNCTION("f_push", "  push %rbp\n")
    FUNCTION("f_nop5", "  .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n  push %rbp\n")
    FUNCTION("f_endbr64", "  endbr64\n  push %rbp\n"));
// clang-format on

uint64_t f_push(uint64_t x);
uint64_t f_nop5(uint64_t x);
uint64_t f_endbr64(uint64_t x);

static volatile uint64_t sink;

// The argument counts up, so calls do not wait for each other's results.
#define LOOP(name)                                                 \
  static void loop_##name(uint32_t calls) {                        \
    uint64_t sum = 0;                                              \
    for (uint32_t i = 0; i < calls; i++) sum += name((uint64_t)i); \
    sink = sum;                                                    \
  }
LOOP(f_push)
LOOP(f_nop5)
LOOP(f_endbr64)

static const struct {
  const char* name;
  void (*loop)(uint32_t calls);
} kFunctions[] = {{"f_push", loop_f_push}, {"f_nop5", loop_f_nop5}, {"f_endbr64", loop_f_endbr64}};

static double thread_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static double ns_per_call(void (*loop)(uint32_t), uint32_t calls) {
  const double start = thread_ns();
  loop(calls);
  return (thread_ns() - start) / calls;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void time_function(void (*loop)(uint32_t), int batches, double batch_ns) {
  static double results[kMaxBatches];
  ns_per_call(loop, kMinCalls);  // first hits fault pages in and make the kernel optimise its probe
  const double wanted = batch_ns / ns_per_call(loop, kMinCalls);
  const uint32_t calls = wanted < kMinCalls   ? kMinCalls
                         : wanted > kMaxCalls ? kMaxCalls
                                              : (uint32_t)wanted;
  for (int i = 0; i < batches; i++) results[i] = ns_per_call(loop, calls);
  qsort(results, (size_t)batches, sizeof results[0], ascending);
  printf("%.4f %.4f %.4f %u\n", results[batches / 2], results[0], results[batches - 1], calls);
}

static void* sleeper(void* started) {
  atomic_fetch_add((atomic_int*)started, 1);
  for (;;) pause();
  return NULL;
}

static int start_threads(int count) {
  static atomic_int started;
  const int before = atomic_load(&started);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  for (int i = 0; i < count; i++) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, sleeper, &started) != 0) return -1;
  }
  while (atomic_load(&started) < before + count) usleep(100);
  return 0;
}

static void run_command(const char* line) {
  char name[32];
  int count;
  double batch_ns;
  if (sscanf(line, "time %31s %d %lf", name, &count, &batch_ns) == 3) {
    for (size_t i = 0; i < sizeof kFunctions / sizeof kFunctions[0]; i++) {
      if (strcmp(kFunctions[i].name, name) != 0 || count < 1 || count > kMaxBatches) continue;
      time_function(kFunctions[i].loop, count, batch_ns);
      return;
    }
  } else if (sscanf(line, "threads %d", &count) == 1 && start_threads(count) == 0) {
    puts("ok");
    return;
  }
  puts("error: unknown command");
}

int main(int argc, char** argv) {
  const int cpu = argc > 1 ? atoi(argv[1]) : -1;
  if (cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
      perror("sched_setaffinity");
      return 1;
    }
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("ready");
  char line[128];
  while (fgets(line, sizeof line, stdin)) run_command(line);
  return 0;
}

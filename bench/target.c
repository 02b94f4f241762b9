// SPDX-License-Identifier: MIT
// The process that benchmarks probe: on request it times calls of its own functions.
// Each function differs in its first instruction, which is what a kernel uprobe's cost hangs on.
// Usage: target CPU        CPU -1: not pinned. Commands on stdin, one answer line each:
//   time FUNCTION BATCHES BATCH_NS   -> median min max (ns of thread CPU time per call) calls
//   pair FUNCTION BATCHES BATCH_NS   -> the same of two threads on two cores: the slower one's
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
    FUNCTION("f_endbr64", "  endbr64\n  push %rbp\n")
    // Its way out is a jump: returns cannot be caught at a `ret` of its own.
    ".balign 64\n.globl f_tail\n.type f_tail, @function\n"
    "f_tail:\n  push %rbp\n  mov %rsp, %rbp\n  inc %rdi\n  pop %rbp\n  jmp f_push\n"
    ".size f_tail, . - f_tail\n");

// f_deep8 calls f_deep7 ... calls f_deep1, which is the innermost.
#define DEEP(name, inner)                                      \
  ".balign 64\n.globl " name "\n.type " name ", @function\n"  \
  name ":\n  push %rbp\n  mov %rsp, %rbp\n"                   \
  "  call " inner "\n  pop %rbp\n  ret\n"                     \
  ".size " name ", . - " name "\n"
__asm__(
    ".text\n"
    FUNCTION("f_deep1", "  push %rbp\n")
    DEEP("f_deep2", "f_deep1") DEEP("f_deep3", "f_deep2") DEEP("f_deep4", "f_deep3")
    DEEP("f_deep5", "f_deep4") DEEP("f_deep6", "f_deep5") DEEP("f_deep7", "f_deep6")
    DEEP("f_deep8", "f_deep7"));
// clang-format on

uint64_t f_push(uint64_t x);
uint64_t f_nop5(uint64_t x);
uint64_t f_endbr64(uint64_t x);
uint64_t f_tail(uint64_t x);
uint64_t f_deep8(uint64_t x);

static volatile uint64_t sink;

// Calls f_push from below 30 frames of its own, which have no frame pointers.
static __attribute__((noinline, noclone)) uint64_t nest(uint64_t depth, uint64_t x) {
  volatile uint64_t room[4] = {depth};
  const uint64_t below = depth == 0 ? f_push(x) : nest(depth - 1, x);
  return below + room[0];
}
static uint64_t f_nest(uint64_t x) { return nest(29, x); }

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
LOOP(f_tail)
LOOP(f_deep8)
LOOP(f_nest)

// One pair of calls, as the compiler must not leave them out.
static void loop_malloc(uint32_t calls) {
  for (uint32_t i = 0; i < calls; i++) {
    void* volatile block = malloc(64);
    free(block);
  }
}

static const struct {
  const char* name;
  void (*loop)(uint32_t calls);
} kFunctions[] = {{"f_push", loop_f_push}, {"f_nop5", loop_f_nop5},   {"f_endbr64", loop_f_endbr64},
                  {"f_tail", loop_f_tail}, {"f_deep8", loop_f_deep8}, {"f_nest", loop_f_nest},
                  {"malloc", loop_malloc}};

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

struct timing {
  void (*loop)(uint32_t);
  int batches;
  double batch_ns;
  double results[kMaxBatches];
  uint32_t calls;
};

static void measure(struct timing* timing) {
  void (*loop)(uint32_t) = timing->loop;
  const double batch_ns = timing->batch_ns;
  double* results = timing->results;
  const int batches = timing->batches;
  ns_per_call(loop, kMinCalls);  // first hits fault pages in and make the kernel optimise its probe
  const double wanted = batch_ns / ns_per_call(loop, kMinCalls);
  const uint32_t calls = wanted < kMinCalls   ? kMinCalls
                         : wanted > kMaxCalls ? kMaxCalls
                                              : (uint32_t)wanted;
  for (int i = 0; i < batches; i++) results[i] = ns_per_call(loop, calls);
  qsort(results, (size_t)batches, sizeof results[0], ascending);
  timing->calls = calls;
}

static double median_of(const struct timing* timing) {
  return timing->results[timing->batches / 2];
}

static void report(const struct timing* timing) {
  printf("%.4f %.4f %.4f %u\n", median_of(timing), timing->results[0],
         timing->results[timing->batches - 1], timing->calls);
}

static int pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return sched_setaffinity(0, sizeof set, &set);
}

static struct pair_thread {
  pthread_t thread;
  int cpu;
  struct timing timing;
} pair[2];
static pthread_barrier_t both_ready;

static void* measure_pinned(void* arg) {
  struct pair_thread* mine = arg;
  if (pin(mine->cpu) != 0) return arg;
  pthread_barrier_wait(&both_ready);
  measure(&mine->timing);
  return NULL;
}

// Batches of the two need not begin together; each thread always has the other beside it but for
// its last few microseconds.
static int measure_pair(void (*loop)(uint32_t), int batches, double batch_ns) {
  const int last = (int)sysconf(_SC_NPROCESSORS_ONLN) - 1;
  if (last < 1) return -1;
  pthread_barrier_init(&both_ready, NULL, 2);
  for (int i = 0; i < 2; i++) {
    pair[i].cpu = last - i;
    pair[i].timing = (struct timing){.loop = loop, .batches = batches, .batch_ns = batch_ns};
    if (pthread_create(&pair[i].thread, NULL, measure_pinned, &pair[i]) != 0) return -1;
  }
  int failed = 0;
  for (int i = 0; i < 2; i++) {
    void* result = NULL;
    pthread_join(pair[i].thread, &result);
    if (result != NULL) failed = -1;
  }
  if (failed) return failed;
  report(&pair[median_of(&pair[1].timing) > median_of(&pair[0].timing)].timing);
  return 0;
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
  char verb[8];
  if (sscanf(line, "%7s %31s %d %lf", verb, name, &count, &batch_ns) == 4) {
    static struct timing timing;
    for (size_t i = 0; i < sizeof kFunctions / sizeof kFunctions[0]; i++) {
      if (strcmp(kFunctions[i].name, name) != 0 || count < 1 || count > kMaxBatches) continue;
      if (strcmp(verb, "pair") == 0 && measure_pair(kFunctions[i].loop, count, batch_ns) == 0) {
        return;
      }
      if (strcmp(verb, "time") != 0) break;
      timing = (struct timing){.loop = kFunctions[i].loop, .batches = count, .batch_ns = batch_ns};
      measure(&timing);
      report(&timing);
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
  if (cpu >= 0 && pin(cpu) != 0) {
    perror("sched_setaffinity");
    return 1;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("ready");
  char line[128];
  while (fgets(line, sizeof line, stdin)) run_command(line);
  return 0;
}

// SPDX-License-Identifier: MIT
// Eight functions whose first five bytes are three instructions, called without pause by SPINNERS
// threads and now and then by the others; every result is checked. Usage:
//   storm THREADS SPINNERS   prints `round N` (calls in thousands); WRONG ends it with status 1
//   storm naive SPINNERS     the negative control: puts jumps into a child with the same spinners
//                            the way that is wrong, int3, tail, head, from outside, with nobody
//                            stopped and nobody's instruction pointer looked at. Prints what it
//                            came to.
// The child of the control has a handler that leads threads which meet the int3 to the copy, and
// all cores are synchronised after each step: the protocol itself is all that is at fault.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum {
  kFunctions = 8,
  kWindowBytes = 5,
  kStackBytes = 64 << 10,
  kNaiveSeconds = 30,
  kSpinnerNice = 5
};

// clang-format off
#define FUNCTION(n)                                                        \
  ".balign 32\n.globl storm_" #n "\n.type storm_" #n ", @function\n"       \
  "storm_" #n ":\n"                                                        \
  "  push %rbx\n  mov %rdi, %rbx\n  push %rbp\n"                           \
  "  lea (%rbx,%rbx,2), %rax\n  add $" #n ", %rax\n"                       \
  "  pop %rbp\n  pop %rbx\n  ret\n"                                        \
  ".size storm_" #n ", . - storm_" #n "\n"
__asm__(".text\n" FUNCTION(0) FUNCTION(1) FUNCTION(2) FUNCTION(3)
        FUNCTION(4) FUNCTION(5) FUNCTION(6) FUNCTION(7));
// clang-format on

typedef long function(long);
function storm_0, storm_1, storm_2, storm_3, storm_4, storm_5, storm_6, storm_7;
static function* const functions[kFunctions] = {storm_0, storm_1, storm_2, storm_3,
                                                storm_4, storm_5, storm_6, storm_7};

static atomic_long thousands;

static void call_all(long x) {
  for (long n = 0; n < kFunctions; n++) {
    const long got = functions[n](x);
    if (got == 3 * x + n) continue;
    printf("WRONG storm_%ld(%ld): %ld\n", n, x, got);
    fflush(stdout);
    _exit(1);
  }
}

// Less urgent than whoever patches, so that changes come fast; preempted in the middle all the
// more.
static void* spinner(void* arg) {
  setpriority(PRIO_PROCESS, 0, kSpinnerNice);
  for (long x = 0;; x++) {
    call_all(x);
    if (x % (1000 / kFunctions) == 0) atomic_fetch_add(&thousands, 1);
  }
  return arg;
}

static void* sleeper(void* arg) {
  for (long x = 0;; x++) {
    call_all(x);
    usleep(5000);
  }
  return arg;
}

static void start(int count, void* (*body)(void*)) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  for (int i = 0; i < count; i++) {
    pthread_t thread;
    if (pthread_create(&thread, &attributes, body, NULL) != 0) exit(2);
  }
}

static int run(int threads, int spinners) {
  start(spinners, spinner);
  start(threads - spinners - 1, sleeper);
  for (;;) {
    usleep(100000);
    printf("round %ld\n", atomic_load(&thousands));
  }
  return 0;
}

static uint8_t* copies[kFunctions];  // three instructions and a jump behind them

static void put_jump(uint8_t* at, uint64_t address, uint64_t to) {
  const int32_t displacement = (int32_t)(to - address - kWindowBytes);
  at[0] = 0xe9;
  memcpy(at + 1, &displacement, sizeof displacement);
}

static void make_copies(void) {
  uint8_t* page = mmap((void*)(((uintptr_t)storm_0 + (64 << 20)) & ~4095ul), 4096,
                       PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) exit(2);
  for (int i = 0; i < kFunctions; i++) {
    copies[i] = page + i * 32;
    memcpy(copies[i], (void*)functions[i], kWindowBytes);
    const uint64_t jump = (uint64_t)copies[i] + kWindowBytes;
    put_jump(copies[i] + kWindowBytes, jump, (uint64_t)functions[i] + kWindowBytes);
  }
  mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static void on_trap(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)info;
  greg_t* rip = &((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
  for (int i = 0; i < kFunctions; i++) {
    if (*rip == (greg_t)functions[i] + 1) *rip = (greg_t)copies[i];
  }
}

static void child(int spinners) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
  sigaction(SIGTRAP, &action, NULL);
  syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0);
  start(spinners, spinner);
  for (;;) pause();
}

static void poke(int memory, uint64_t at, const uint8_t* bytes, size_t size) {
  if (pwrite(memory, bytes, size, (off_t)at) < 0) return;  // it has ended
  syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}

static int control(int spinners) {
  make_copies();
  const pid_t pid = fork();
  if (pid == 0) child(spinners);
  usleep(100000);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/mem", pid);
  const int memory = open(path, O_RDWR);
  if (memory < 0) return 2;
  const time_t end = time(NULL) + kNaiveSeconds;
  const uint8_t trap = 0xcc;
  long changes = 0;
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (time(NULL) > end) {
      kill(pid, SIGKILL);
      printf("survived %ld changes\n", changes);
      return 0;
    }
    for (int i = 0; i < kFunctions; i++, changes += 2) {
      const uint64_t site = (uint64_t)functions[i];
      uint8_t jump[kWindowBytes];
      put_jump(jump, site, (uint64_t)copies[i]);
      for (int on = 1; on >= 0; on--) {
        const uint8_t* bytes = on ? jump : copies[i];
        poke(memory, site, &trap, 1);
        poke(memory, site + 1, bytes + 1, kWindowBytes - 1);
        poke(memory, site, bytes, 1);
      }
    }
  }
  if (WIFSIGNALED(status)) {
    printf("crashed by signal %d after %ld changes\n", WTERMSIG(status), changes);
  }
  if (WIFEXITED(status)) printf("wrong results after %ld changes\n", changes);
  return 0;
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc != 3) return 2;
  if (strcmp(argv[1], "naive") == 0) return control(atoi(argv[2]));
  return run(atoi(argv[1]), atoi(argv[2]));
}

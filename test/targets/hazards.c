// SPDX-License-Identifier: MIT
// One process per way in which a target can be unlucky or hostile while probes come and go. Usage:
// hazards MODE [ARG]. Prints `round N`; prints WRONG and ends with status 1 when a result is wrong.
//   tail      two functions that tail-call each other, 60 levels deep
//   loop      a function that jumps back to its own first instruction and keeps data in the red
//   zone signal    a fault inside the first bytes; its handler takes its time sandbox   on SIGUSR1:
//   a seccomp filter that kills the process for making a socket pair full      no free file
//   descriptor unload F  calls qfun of library F; on SIGUSR1 unloads it leader    the first thread
//   ends, another one works on epoll     a signal handler sets a flag that an endless epoll_wait
//   loop looks at
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHAPE __attribute__((noinline, used))

static volatile sig_atomic_t asked;
static void on_ask(int sig) {
  (void)sig;
  asked = 1;
}

static void say_round(void) {
  static long round;
  printf("round %ld\n", ++round);
}

static void check(long got, long want, const char* what) {
  if (got == want) return;
  printf("WRONG %s: %ld, want %ld\n", what, got, want);
  exit(1);
}

SHAPE long work(long n) {
  volatile long x = n;
  return x * 5 + 1;
}

static void pause_ms(long ms) {
  struct timespec left = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&left, &left) != 0) continue;
}

SHAPE long tail_g(long n);
SHAPE long tail_f(long n) {
  __asm__ volatile("nop; nop; nop" ::: "memory");
  return tail_g(n);
}
SHAPE long tail_g(long n) {
  long sum = 0;
  if (n > 0) sum = tail_f(n - 1);
  __asm__ volatile("" : "+r"(sum)::"memory");
  return sum + 1;
}

/* long red_loop(long n, long first): the sum of n..1, kept at -112(%rsp) over the loop. */
__asm__(
    ".text\n.globl red_loop\n.type red_loop, @function\nred_loop:\n"
    "  lea (%rdi), %rdx\n  test %rsi, %rsi\n  jz 1f\n  movq $0, -112(%rsp)\n  xor %esi, %esi\n"
    "1: add %rdx, -112(%rsp)\n  dec %rdi\n  jnz red_loop\n  mov -112(%rsp), %rax\n  ret\n"
    ".size red_loop, . - red_loop\n"
    /* int fault_inside(int*): the load is not the first instruction. */
    ".globl fault_inside\n.type fault_inside, @function\nfault_inside:\n"
    "  xor %eax, %eax\n  mov (%rdi), %eax\n  add $1, %eax\n  ret\n"
    ".size fault_inside, . - fault_inside\n");
long red_loop(long n, long first);
int fault_inside(int* at);

static char* page;
static void on_fault(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)info, (void)context;
  puts("in handler");
  while (!asked) pause_ms(10);
  mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void run_signal(void) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
  sigaction(SIGSEGV, &action, NULL);
  page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(fault_inside((int*)page), 1, "fault_inside");
}

static void sandbox(void) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socketpair, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog filter = {4, code};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) exit(2);
  puts("sandboxed");
}

static void* second_thread(void* arg) {
  for (;;) {
    check(work(3), 16, "work");
    say_round();
    pause_ms(10);
  }
  return arg;
}

static void run_epoll(void) {
  const int fd = epoll_create1(0);
  struct epoll_event event;
  puts("waiting");
  while (!asked) epoll_wait(fd, &event, 1, -1);
  puts("left the loop");
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  setvbuf(stdout, NULL, _IOLBF, 0);
  struct sigaction ask = {.sa_handler = on_ask};
  sigaction(SIGUSR1, &ask, NULL);
  void* library = NULL;
  long (*qfun)(long) = NULL;
  if (strcmp(mode, "unload") == 0 && argc > 2) {
    library = dlopen(argv[2], RTLD_NOW);
    qfun = library != NULL ? (long (*)(long))dlsym(library, "qfun") : NULL;
    if (qfun == NULL) return 2;
  }
  if (strcmp(mode, "signal") == 0) run_signal();
  if (strcmp(mode, "epoll") == 0) run_epoll();
  if (strcmp(mode, "full") == 0) {
    const struct rlimit few = {16, 16};
    setrlimit(RLIMIT_NOFILE, &few);
    while (open("/dev/null", O_RDONLY) >= 0) continue;
  }
  if (strcmp(mode, "leader") == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, second_thread, NULL);
    while (!asked) pause_ms(10);
    pthread_exit(NULL);
  }
  for (;;) {
    check(work(3), 16, "work");
    check(tail_f(60), 61, "tail_f");
    check(red_loop(100, 1), 5050, "red_loop");
    if (qfun != NULL) check(qfun(2), 7, "qfun");
    if (asked && strcmp(mode, "sandbox") == 0) sandbox(), asked = 0;
    if (asked && qfun != NULL) dlclose(library), qfun = NULL, puts("unloaded");
    say_round();
    pause_ms(10);
  }
}

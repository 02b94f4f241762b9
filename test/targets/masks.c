// SPDX-License-Identifier: MIT
// A process that changes its signal masks in every way there is, and calls touch() with pointers
// that are good while its signals are open and bad right behind each change: a read that believes
// them to be open still is the end of it. Prints `round N`; `WRONG what` and status 1 when a mask
// is not as it was set. Usage: masks [PLUGIN]; the plugin changes masks by system calls of its own.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, GOOD_KIND = 0, BAD_KIND = 2, STACK_BYTES = 256 << 10, GOOD_CALLS = 20 };

extern char** environ;
static char* good;
static char* const unmapped = (char*)0x200000;
enum part { BLOCKS, CONTEXTS, JUMPS, SUSPENDS, CREATES, FORKS, PLUGS, PARTS };
static atomic_long progress[PARTS];
static sigset_t all, none;

static void wrong(const char* what) {
  printf("WRONG %s\n", what);
  fflush(stdout);
  _exit(1);
}

/* The probed function: never reads what it is given. */
__attribute__((noinline, used)) const void* touch(const void* page, const char* text, long kind) {
  __asm__ volatile("" ::"r"(page), "r"(text), "r"(kind) : "memory");
  return page;
}

static void touch_good(void) {
  for (int i = 0; i < GOOD_CALLS; ++i) touch(good, "world", GOOD_KIND);
}
static void touch_bad(void) { touch(unmapped, unmapped + 9, BAD_KIND); }

/* Mostly in the same slice of time as the next, but the machine is not ours alone. */
static void ends_round(enum part part) {
  if (atomic_fetch_add(&progress[part], 1) % 16 == 15) usleep(500);
}

static void expect_mask(const sigset_t* want, const char* what) {
  sigset_t now;
  sigemptyset(&now);
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &now, 8);
  if (sigismember(&now, SIGSEGV) != sigismember(want, SIGSEGV)) wrong(what);
  if (sigismember(&now, SIGBUS) != sigismember(want, SIGBUS)) wrong(what);
}

static void by_pthread(const sigset_t* set) { pthread_sigmask(SIG_SETMASK, set, NULL); }
static void by_process(const sigset_t* set) { sigprocmask(SIG_SETMASK, set, NULL); }
static void by_number(const sigset_t* set) {
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, set, NULL, 8);
}
static void (*const ways[])(const sigset_t*) = {by_pthread, by_process, by_number};

static void* blocks(void* arg) {
  for (long round = 0;; ++round) {
    void (*const way)(const sigset_t*) = ways[round % 3];
    touch_good();
    way(&all);
    touch_bad();
    expect_mask(&all, "after a block");
    touch_bad();
    way(&none);
    touch_bad();
    ends_round(BLOCKS);
  }
  return arg;
}

static _Thread_local ucontext_t open_side, blocked_side;
static void live_blocked(void) {
  for (;;) {
    touch_bad();
    expect_mask(&all, "in a context that blocks all");
    swapcontext(&blocked_side, &open_side);
  }
}
static void* contexts(void* arg) {
  getcontext(&blocked_side);
  blocked_side.uc_stack.ss_sp = malloc(STACK_BYTES);
  blocked_side.uc_stack.ss_size = STACK_BYTES;
  blocked_side.uc_sigmask = all;
  makecontext(&blocked_side, live_blocked, 0);
  for (;;) {
    touch_good();
    swapcontext(&open_side, &blocked_side);
    touch_bad();
    ends_round(CONTEXTS);
  }
  return arg;
}

static _Thread_local sigjmp_buf back;
static _Thread_local int jumps_out;
static void on_signal(int sig) { /* sa_mask: all */
  (void)sig;
  touch_good();
  touch_bad();
  if (jumps_out) siglongjmp(back, 1);
}
static void* jumps(void* arg) {
  for (long round = 0;; ++round) {
    touch_good();
    jumps_out = 0;
    raise(SIGUSR2);
    touch_bad();
    sigset_t but_one = all;
    sigdelset(&but_one, SIGUSR2);
    ways[round % 3](&but_one);
    touch_bad();
    raise(SIGUSR2); /* back to code that blocks the fault signals */
    touch_bad();
    jumps_out = 1;
    if (sigsetjmp(back, 1) == 0) raise(SIGUSR2);
    touch_bad();
    expect_mask(&all, "after siglongjmp");
    ways[round % 3](&none);
    touch_good();
    if (sigsetjmp(back, 1) == 0) raise(SIGUSR2);
    touch_bad();
    expect_mask(&none, "after siglongjmp to open code");
    ends_round(JUMPS);
  }
  return arg;
}

/* Its handler blocks only its own signal: faults are open in it, and blocked behind it. */
static void on_open_signal(int sig) {
  (void)sig;
  touch_good();
  touch_good();
}
static void* suspends(void* arg) {
  const struct timespec moment = {0, 1000000};
  for (long round = 0;; ++round) {
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    pthread_kill(pthread_self(), SIGUSR1); /* pending */
    if (round % 2 == 0) sigsuspend(&none);
    if (round % 2 == 1) ppoll(NULL, 0, &moment, &none);
    touch_bad();
    expect_mask(&all, "after a wait with an open mask");
    sigset_t but_one = all;
    sigdelset(&but_one, SIGUSR1);
    pthread_sigmask(SIG_SETMASK, &but_one, NULL);
    pthread_kill(pthread_self(), SIGUSR1);
    touch_bad();
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    touch_good();
    ends_round(SUSPENDS);
  }
  return arg;
}

static void* short_life(void* arg) {
  touch_bad();
  touch_good();
  if (arg != NULL) pthread_sigmask(SIG_SETMASK, &all, NULL);
  touch_bad();
  return arg;
}
static void* creates(void* arg) {
  for (long round = 0;; ++round) {
    pthread_t threads[8];
    /* Some are born blocked, in memory of threads that were open. */
    pthread_sigmask(SIG_SETMASK, round % 2 ? &all : &none, NULL);
    for (int i = 0; i < 8; ++i) {
      if (pthread_create(&threads[i], NULL, short_life, i % 2 ? &all : NULL) != 0) wrong("create");
    }
    touch_bad();
    for (int i = 0; i < 8; ++i) pthread_join(threads[i], NULL);
    touch_good();
    ends_round(CREATES);
  }
  return arg;
}

static void expect_status(pid_t child, int code, const char* what) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) wrong("waitpid");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != code) {
    printf("status %x\n", (unsigned)status);
    wrong(what);
  }
}
static void forked_life(void) {
  for (int round = 0; round < 20; ++round) {
    touch_good();
    by_pthread(&all);
    touch_bad();
    by_number(&none);
    touch_bad();
    pthread_t thread;
    if (pthread_create(&thread, NULL, short_life, &all) != 0) _exit(3);
    pthread_join(thread, NULL);
  }
  _exit(7);
}
static void fork_one(void) {
  touch_good();
  const pid_t child = fork();
  if (child == 0) forked_life();
  touch_bad();
  expect_status(child, 7, "a forked child");
}
static void vfork_one(void) {
  touch_good();
  const pid_t child = vfork();
  if (child == 0) {
    raise(SIGUSR2); /* its handler blocks all, and reads */
    touch_good();
    by_process(&all);
    touch_bad();
    _exit(8);
  }
  touch_bad();
  expect_status(child, 8, "a vforked child");
}
static void spawn_one(void) {
  char* const args[] = {(char*)"true", NULL};
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t child = 0;
  touch_good();
  if (posix_spawn(&child, "/bin/true", NULL, &attributes, args, environ) != 0) wrong("spawn");
  touch_bad();
  posix_spawnattr_destroy(&attributes);
  expect_status(child, 0, "a spawned child");
}
static void* forks(void* arg) {
  for (;;) {
    vfork_one();
    spawn_one();
    fork_one();
    ends_round(FORKS);
  }
  return arg;
}

/* A module that comes late and makes the system call itself. */
static void* plugs(void* path) {
  for (long round = 0;; ++round) {
    void* plugin = dlopen(path, RTLD_NOW);
    if (plugin == NULL) wrong(dlerror());
    void (*set_mask)(const sigset_t*) = (void (*)(const sigset_t*))dlsym(plugin, "set_mask");
    const int times = round % 4 == 0 ? 3000 : 10;
    for (int i = 0; i < times; ++i) {
      touch_good();
      set_mask(&all);
      touch_bad();
      expect_mask(&all, "after the plugin's block");
      set_mask(&none);
      if (times > 10) usleep(1000);
    }
    dlclose(plugin);
    touch_good();
    ends_round(PLUGS);
  }
  return path;
}

/* Handlers in which their own signal is open, as crash handlers have them: they are asked for, put
 * and put back, and called once, on order. */
static volatile sig_atomic_t ordered, called;
static void on_order(int sig) {
  (void)sig;
  ordered = 1;
}
static void on_open_fault(int sig, siginfo_t* info, void* context) {
  if (sig != SIGFPE || info->si_signo != SIGFPE || context == NULL)
    wrong("an open handler's arguments");
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  if (sigismember(&now, SIGFPE)) wrong("an open handler's mask");
  touch_good();
  called = 1;
}
static void on_another(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)info, (void)context;
  wrong("another handler was called");
}
static struct sigaction open_action(void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESETHAND;
  return action;
}
static void expect_action(int sig, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction now;
  if (sigaction(sig, NULL, &now) != 0 || now.sa_sigaction != handler) wrong("sigaction asks");
  if ((now.sa_flags & ~0x04000000) != (SA_SIGINFO | SA_NODEFER | SA_RESETHAND)) wrong("flags");
}
static void use_open_handlers(void) {
  const struct sigaction usual = open_action(on_open_fault), other = open_action(on_another);
  struct sigaction old;
  expect_action(SIGFPE, on_open_fault);
  if (sigaction(SIGFPE, &other, &old) != 0 || old.sa_sigaction != on_open_fault) wrong("old");
  expect_action(SIGFPE, on_another);
  if (signal(SIGFPE, SIG_IGN) != (sighandler_t)(void*)on_another) wrong("signal, handler");
  if (sigaction(SIGFPE, &usual, &old) != 0 || old.sa_handler != SIG_IGN) wrong("ignored");
  if (!ordered) return;
  ordered = 0;
  raise(SIGFPE);
  if (sigaction(SIGFPE, &usual, &old) != 0 || old.sa_handler != SIG_DFL) wrong("not reset");
  printf(called ? "open handler called\n" : "WRONG not called\n");
}

static void handle(int sig, void (*handler)(int), const sigset_t* mask) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  action.sa_mask = *mask;
#ifdef OPEN_HANDLER
  action.sa_flags = SA_NODEFER;
#endif
  if (sigaction(sig, &action, NULL) != 0) wrong("sigaction");
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  good = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(good, 0x5a, PAGE);
  sigfillset(&all);
  sigemptyset(&none);
  handle(SIGUSR1, on_open_signal, &none);
  handle(SIGUSR2, on_signal, &all);
  handle(SIGHUP, on_order, &none);
  const struct sigaction crash = open_action(on_open_fault);
  sigaction(SIGFPE, &crash, NULL);
  void* (*const bodies[])(void*) = {blocks, contexts, jumps, suspends, creates, forks, plugs};
  const int parts = argc > 1 ? PARTS : PARTS - 1;
#ifdef ONLY_PLUGS /* nothing else maps memory: the module comes to where it was */
  const int first = PLUGS;
#else
  const int first = 0;
#endif
  pthread_t thread;
  for (int i = first; i < parts; ++i) {
    if (pthread_create(&thread, NULL, bodies[i], i == PLUGS ? argv[1] : NULL) != 0) return 2;
  }
  for (;;) {
    long least = LONG_MAX;
    for (int i = first; i < parts; ++i) {
      const long one = atomic_load(&progress[i]) * (i == PLUGS ? 20 : 1);
      if (one < least) least = one;
    }
    touch_good();
    use_open_handlers();
    usleep(20000);
    printf("round %ld\n", least);
  }
}

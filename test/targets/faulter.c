// SPDX-License-Identifier: MIT
// A process that lives with faults: its own SIGSEGV and SIGBUS handlers repair pages or jump out,
// are replaced again and again, and every answer of the kernel is compared with what it must be.
// Its threads call touch() with pointers that are bad in every way. Prints `round N`; `WRONG what`
// and status 1 when something is not as without probes. Usage: faulter [handlers|plain|ignore];
// plain and ignore leave the signals alone, and SIGUSR1 makes them store where nothing is mapped.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
enum kind { GOOD, NO_POINTER, UNMAPPED, PROTECTED, RACING, ACROSS, AT_THE_END, KINDS };
enum cure { REPAIR, JUMP_OUT };

extern char** environ;
static char* good;
static char* const unmapped = (char*)0x200000; /* low: nobody is given such addresses by chance */
static char* protected_page;
static char* racing;
static char* edge; /* end of a page before a PROT_NONE one */
static atomic_long progress;
static atomic_long handled;
static pthread_mutex_t handlers_lock = PTHREAD_MUTEX_INITIALIZER;

static _Thread_local struct {
  sigjmp_buf back;
  char* page; /* where this thread expects a fault, NULL: nowhere */
  enum cure cure;
} expected;

static void wrong(const char* what) {
  char text[128];
  const int length = snprintf(text, sizeof text, "WRONG %s (errno %d)\n", what, errno);
  if (write(1, text, (size_t)length) < 0) _exit(2);
  _exit(1);
}

/* The probed function: never reads what it is given. */
__attribute__((noinline, used)) const void* touch(const void* page, const char* text, long kind) {
  __asm__ volatile("" ::"r"(page), "r"(text), "r"(kind) : "memory");
  return page;
}

static void touch_all(void) {
  char* volatile moving = racing;
  if (touch(good, "world", GOOD) != good) wrong("touch returned something else");
  touch(NULL, NULL, NO_POINTER);
  touch(unmapped, unmapped + 9, UNMAPPED);
  touch(protected_page, protected_page + 1, PROTECTED);
  touch(moving, moving, RACING);
  touch(edge - 8, edge - 8, ACROSS);
  touch(edge - 16, edge - 8 - 16, AT_THE_END);
}

static int is_blocked(int sig) {
  sigset_t now;
  pthread_sigmask(SIG_BLOCK, NULL, &now);
  return sigismember(&now, sig);
}

/* What the kernel promises a handler: arguments, stack and mask. */
static void on_fault(int sig, siginfo_t* info, void* context) {
  (void)context;
  const int saved = errno;
  char* page = expected.page;
  if (page == NULL) wrong("a handler was called without a fault of ours");
  if ((char*)info->si_addr < page || (char*)info->si_addr >= page + PAGE) wrong("si_addr");
  if (sig == SIGSEGV && info->si_code != SEGV_ACCERR && info->si_code != SEGV_MAPERR) {
    wrong("si_code");
  }
  stack_t stack;
  if (sigaltstack(NULL, &stack) != 0 || !(stack.ss_flags & SS_ONSTACK)) wrong("not on the stack");
  if (!is_blocked(SIGUSR2)) wrong("the handler's mask is not in force");
  if (!is_blocked(sig)) wrong("the signal itself is not blocked in its handler");
  atomic_fetch_add(&handled, 1);
  touch_all();
  errno = saved;
  if (expected.cure == JUMP_OUT) siglongjmp(expected.back, 1);
  if (mprotect(page, PAGE, PROT_READ | PROT_WRITE) != 0) wrong("mprotect in the handler");
}
static void on_fault_too(int sig, siginfo_t* info, void* context) { on_fault(sig, info, context); }

static struct sigaction handler_action(int version) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = version % 2 == 0 ? on_fault : on_fault_too;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | (version % 3 == 0 ? SA_RESTART : 0);
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, SIGUSR2);
  return action;
}

static void check_same(const struct sigaction* got, const struct sigaction* want) {
  const int restorer = 0x04000000;
  if (got->sa_sigaction != want->sa_sigaction) wrong("sigaction gave back another handler");
  if ((got->sa_flags & ~restorer) != want->sa_flags) wrong("sigaction gave back other flags");
  if (memcmp(&got->sa_mask, &want->sa_mask, 8) != 0) wrong("sigaction gave back another mask");
}

/* Installs handlers by every route, and compares what was there before. */
static void reinstall(int sig) {
  static int version[2];
  int* mine = &version[sig == SIGBUS];
  pthread_mutex_lock(&handlers_lock);
  const struct sigaction before = handler_action(*mine);
  const struct sigaction next = handler_action(*mine + 1);
  struct sigaction old;
  if (sigaction(sig, NULL, &old) != 0) wrong("sigaction asks");
  check_same(&old, &before);
  if (sigaction(sig, &next, &old) != 0) wrong("sigaction sets");
  check_same(&old, &before);
  if (sigaction(sig, &next, NULL) != 0) wrong("sigaction sets without asking");
  *mine += 1;
  if (sig == SIGBUS) { /* nobody raises it, so other handlers may be there for a moment */
    if (signal(SIGBUS, SIG_IGN) != (sighandler_t)(void*)next.sa_sigaction) wrong("signal, handler");
    if (signal(SIGBUS, SIG_IGN) != SIG_IGN) wrong("signal, ignored");
    if (sigaction(SIGBUS, &next, &old) != 0 || old.sa_handler != SIG_IGN) wrong("ignored");
  }
  pthread_mutex_unlock(&handlers_lock);
}

static void own_faults(char* page) {
  volatile char* at = page + 100;
  expected.page = page;
  expected.cure = REPAIR;
  if (mprotect(page, PAGE, PROT_NONE) != 0) wrong("mprotect");
  *at = 7;
  if (*at != 7) wrong("the repaired page");
  expected.cure = JUMP_OUT;
  if (mprotect(page, PAGE, PROT_NONE) != 0) wrong("mprotect");
  if (sigsetjmp(expected.back, 1) == 0) {
    *at = 8;
    wrong("a store to a protected page");
  }
  if (is_blocked(SIGSEGV) || is_blocked(SIGUSR2)) wrong("the mask after siglongjmp");
  expected.page = racing;
  if (sigsetjmp(expected.back, 1) == 0) (void)*(volatile char*)expected.page;
  expected.page = NULL;
}

static char* map_page(int protection) {
  char* page = mmap(NULL, PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) wrong("mmap");
  return page;
}

static char* map_at(char* at) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
  if (mmap(at, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) != at) wrong("mmap at a place");
  return at;
}

static void use_signal_stack(void) {
  stack_t stack = {.ss_sp = malloc(64 << 10), .ss_size = 64 << 10, .ss_flags = 0};
  if (stack.ss_sp == NULL || sigaltstack(&stack, NULL) != 0) wrong("sigaltstack");
}

static void* owner(void* arg) {
  use_signal_stack();
  char* page = map_page(PROT_READ | PROT_WRITE);
  for (long round = 0;; ++round) {
    own_faults(page);
    touch_all();
    if (round % 8 == 0) reinstall(round % 16 == 0 ? SIGSEGV : SIGBUS);
    atomic_fetch_add(&progress, 1);
  }
  return arg;
}

static void* deaf(void* arg) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, NULL);
  for (;;) {
    touch_all();
    if (!is_blocked(SIGSEGV) || !is_blocked(SIGBUS)) wrong("the mask of a deaf thread");
    usleep(200);
  }
  return arg;
}

static void* remapper(void* arg) {
  for (;;) {
    char* page = racing;
    munmap(page, PAGE);
    usleep(50);
    map_at(page);
    usleep(50);
  }
  return arg;
}

static void expect_status(pid_t child, int code, const char* what) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) wrong("waitpid");
  if (WIFSIGNALED(status)) fprintf(stderr, "%s: signal %d\n", what, WTERMSIG(status));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != code) wrong(what);
}

static void spawn_true(void) {
  char* const args[] = {(char*)"true", NULL};
  posix_spawnattr_t attributes;
  sigset_t to_default;
  posix_spawnattr_init(&attributes);
  sigfillset(&to_default);
  posix_spawnattr_setsigdefault(&attributes, &to_default);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  pid_t child = 0;
  if (posix_spawn(&child, "/bin/true", NULL, &attributes, args, environ) != 0) wrong("posix_spawn");
  posix_spawnattr_destroy(&attributes);
  expect_status(child, 0, "a spawned child");
}

static void vfork_true(void) {
  const pid_t child = vfork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    execl("/bin/true", "true", (char*)NULL);
    _exit(9);
  }
  if (child < 0) wrong("vfork");
  expect_status(child, 0, "a vforked child");
}

/* In a forked child: the same life, alone. */
static void child_life(void) {
  char* page = map_page(PROT_READ | PROT_WRITE);
  for (int round = 0; round < 50; ++round) {
    if (round % 16 == 0) spawn_true(); /* before anything else may have looked at the pid */
    reinstall(SIGSEGV);
    own_faults(page);
    touch_all();
  }
  signal(SIGSEGV, SIG_DFL);
  *(volatile char*)protected_page = 1;
  _exit(7);
}

static void fork_child(void) {
  pthread_mutex_lock(&handlers_lock);
  fflush(NULL);
  const pid_t child = fork();
  pthread_mutex_unlock(&handlers_lock);
  if (child == 0) child_life();
  if (child < 0) wrong("fork");
  int status = 0;
  if (waitpid(child, &status, 0) != child) wrong("waitpid");
  if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) wrong("the end of a forked child");
}

static void* parent(void* arg) {
  use_signal_stack();
  for (long round = 0;; ++round) {
    spawn_true();
    vfork_true();
    if (round % 4 == 0) fork_child();
    usleep(5000);
  }
  return arg;
}

static void on_order_to_crash(int sig) {
  (void)sig;
  *(volatile char*)unmapped = 1;
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "handlers";
  setvbuf(stdout, NULL, _IOLBF, 0);
  good = map_page(PROT_READ | PROT_WRITE);
  memset(good, 0x5a, PAGE);
  protected_page = map_page(PROT_NONE);
  racing = map_at((char*)0x300000);
  edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (edge == MAP_FAILED) wrong("mmap");
  memset(edge, 'x', PAGE);
  edge += PAGE;
  edge[-1] = 0;
  if (mprotect(edge, PAGE, PROT_NONE) != 0) wrong("mprotect");

  signal(SIGUSR1, on_order_to_crash);
  if (strcmp(mode, "ignore") == 0) signal(SIGSEGV, SIG_IGN);
  if (strcmp(mode, "handlers") == 0) {
    const struct sigaction first = handler_action(0);
    sigaction(SIGSEGV, &first, NULL);
    sigaction(SIGBUS, &first, NULL);
    pthread_t thread;
    void* (*const bodies[])(void*) = {owner, owner, deaf, remapper, parent};
    for (unsigned i = 0; i < sizeof bodies / sizeof *bodies; ++i) {
      if (pthread_create(&thread, NULL, bodies[i], NULL) != 0) return 2;
    }
  }
  for (;;) {
    touch_all();
    if (strcmp(mode, "handlers") != 0) atomic_fetch_add(&progress, 1);
    usleep(20000);
    printf("round %ld\n", atomic_load(&progress));
  }
}

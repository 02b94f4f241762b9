// SPDX-License-Identifier: MIT
// One thread per blocking system call, each of which must neither fail with EINTR nor come back
// early or late. Prints `NAME ok MS` or `NAME BROKEN RESULT ERRNO MS`; `asleep` when all wait.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

enum { WAIT_MS = 2500 };
static const struct timespec kWait = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000000};

struct sleeper {
  const char* name;
  long (*call)(void);
  long want;       // result
  int want_errno;  // when result is -1
};

static long in_epoll_wait(void) {
  struct epoll_event event;
  return epoll_wait(epoll_create1(0), &event, 1, WAIT_MS);
}
static long in_epoll_pwait(void) {
  struct epoll_event event;
  sigset_t none;
  sigemptyset(&none);
  return epoll_pwait(epoll_create1(0), &event, 1, WAIT_MS, &none);
}
static long in_poll(void) { return poll(NULL, 0, WAIT_MS); }
static long in_ppoll(void) { return ppoll(NULL, 0, &kWait, NULL); }
static long in_select(void) {
  struct timeval wait = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
  return select(0, NULL, NULL, NULL, &wait);
}
static long in_pselect(void) { return pselect(0, NULL, NULL, NULL, &kWait, NULL); }
static long in_nanosleep(void) { return nanosleep(&kWait, NULL); }
static long in_clock_nanosleep(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  at.tv_sec += WAIT_MS / 1000;
  at.tv_nsec += WAIT_MS % 1000 * 1000000;
  at.tv_sec += at.tv_nsec / 1000000000;
  at.tv_nsec %= 1000000000;
  return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}
static long in_futex(void) {
  static uint32_t word;
  return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &kWait, NULL, 0);
}
static long in_semaphore(void) {
  sem_t sem;
  sem_init(&sem, 0, 0);
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  at.tv_sec += WAIT_MS / 1000;
  at.tv_nsec += WAIT_MS % 1000 * 1000000;
  at.tv_sec += at.tv_nsec / 1000000000;
  at.tv_nsec %= 1000000000;
  return sem_timedwait(&sem, &at);
}
static long in_sigtimedwait(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  return sigtimedwait(&set, NULL, &kWait);
}
static long in_semtimedop(void) {
  const int id = semget(IPC_PRIVATE, 1, 0600);
  struct sembuf take = {0, -1, 0};
  const long result = semtimedop(id, &take, 1, &kWait);
  const int kept = errno;
  semctl(id, 0, IPC_RMID);
  errno = kept;
  return result;
}
static long in_io_getevents(void) {
  aio_context_t context = 0;
  struct io_event event;
  struct timespec wait = kWait;
  if (syscall(SYS_io_setup, 1, &context) != 0) return -2;
  return syscall(SYS_io_getevents, context, 1, 1, &event, &wait);
}
static long in_recv_timeout(void) {
  int pair[2];
  char byte;
  const struct timeval wait = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return -2;
  setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  return recv(pair[0], &byte, 1, 0);
}

// Without a time-out of their own: main ends these.
static int pipe_ends[2], socket_ends[2], queue;
static long in_read(void) {
  char byte;
  return read(pipe_ends[0], &byte, 1);
}
static long in_recv(void) {
  char byte;
  return recv(socket_ends[0], &byte, 1, 0);
}
static long in_msgrcv(void) {
  struct {
    long type;
    char text[8];
  } message;
  return msgrcv(queue, &message, sizeof message.text, 0, 0);
}
static long in_waitpid(void) {
  int status;
  const pid_t child = fork();
  if (child == 0) {
    nanosleep(&kWait, NULL);
    _exit(0);
  }
  return waitpid(child, &status, 0) == child ? 0 : -1;
}

static struct sockaddr_un address;
static int listener, lock_ends[2];
static long in_accept(void) { return accept(listener, NULL, NULL) >= 0 ? 0 : -1; }
static long in_flock(void) { return flock(lock_ends[0], LOCK_EX); }
static long in_waitid(void) {
  siginfo_t info;
  const pid_t child = fork();
  if (child == 0) {
    nanosleep(&kWait, NULL);
    _exit(0);
  }
  return waitid(P_PID, (id_t)child, &info, WEXITED);
}
// This one must end by its signal, and not before.
static pthread_t suspended;
static long in_sigsuspend(void) {
  sigset_t none;
  suspended = pthread_self();
  sigemptyset(&none);
  sigaddset(&none, SIGUSR2);
  return sigsuspend(&none);
}
static long in_epoll_pwait2(void) {
  struct epoll_event event;
  return syscall(SYS_epoll_pwait2, epoll_create1(0), &event, 1, &kWait, NULL, 8);
}
static long in_futex_waitv(void) {
  static uint32_t word;
  const struct {
    uint64_t value, address;
    uint32_t flags, reserved;
  } waiter = {0, (uint64_t)&word, 2 /* 32 bits */, 0};
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  at.tv_sec += WAIT_MS / 1000;
  at.tv_nsec += WAIT_MS % 1000 * 1000000;
  at.tv_sec += at.tv_nsec / 1000000000;
  at.tv_nsec %= 1000000000;
  return syscall(449, &waiter, 1, 0, &at, CLOCK_MONOTONIC);
}

static const struct sleeper kSleepers[] = {
    {"poll", in_poll, 0, 0},
    {"ppoll", in_ppoll, 0, 0},
    {"select", in_select, 0, 0},
    {"pselect", in_pselect, 0, 0},
    {"nanosleep", in_nanosleep, 0, 0},
    {"clock_nanosleep", in_clock_nanosleep, 0, 0},
    {"futex", in_futex, -1, ETIMEDOUT},
    {"sem_timedwait", in_semaphore, -1, ETIMEDOUT},
    {"read", in_read, 1, 0},
    {"recv", in_recv, 1, 0},
    {"msgrcv", in_msgrcv, 1, 0},
    {"waitpid", in_waitpid, 0, 0},
    {"waitid", in_waitid, 0, 0},
    {"accept", in_accept, 0, 0},
    {"flock", in_flock, 0, 0},
    {"sigsuspend", in_sigsuspend, -1, EINTR},
    {"futex_waitv", in_futex_waitv, -1, ETIMEDOUT},
    {"epoll_pwait2", in_epoll_pwait2, 0, 0},
    {"epoll_wait", in_epoll_wait, 0, 0},
    {"epoll_pwait", in_epoll_pwait, 0, 0},
    {"sigtimedwait", in_sigtimedwait, -1, EAGAIN},
    {"semtimedop", in_semtimedop, -1, EAGAIN},
    {"io_getevents", in_io_getevents, 0, 0},
    {"recv_timeout", in_recv_timeout, -1, EAGAIN},
};
enum { SLEEPERS = sizeof kSleepers / sizeof kSleepers[0] };

static long now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static atomic_int begun;

static void* sleep_in(void* arg) {
  const struct sleeper* sleeper = arg;
  const long started = now_ms();
  atomic_fetch_add(&begun, 1);
  errno = 0;
  const long result = sleeper->call();
  const int err = errno;
  const long took = now_ms() - started;
  if (result == sleeper->want && (result != -1 || err == sleeper->want_errno)) {
    printf("%s ok %ld\n", sleeper->name, took);
  } else {
    printf("%s BROKEN %ld %s %ld\n", sleeper->name, result, strerror(err), took);
  }
  return NULL;
}

__attribute__((noinline)) long work(long n) {
  __asm__ volatile("" ::: "memory");
  return n + 1;
}

static void on_signal(int sig) { (void)sig; }

static void open_ends(void) {
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  address.sun_family = AF_UNIX;  // and a name that the kernel chooses
  socklen_t size = sizeof address;
  listener = socket(AF_UNIX, SOCK_STREAM, 0);
  lock_ends[0] = open("/proc/self/exe", O_RDONLY);
  lock_ends[1] = open("/proc/self/exe", O_RDONLY);
  if (bind(listener, (struct sockaddr*)&address, sizeof(sa_family_t)) != 0 ||
      getsockname(listener, (struct sockaddr*)&address, &size) != 0 || listen(listener, 1) != 0 ||
      flock(lock_ends[1], LOCK_EX) != 0) {
    exit(2);
  }
}

// What ends the waits that have no time-out.
static int end_waits(void) {
  const struct {
    long type;
    char text[8];
  } message = {1, "x"};
  if (write(pipe_ends[1], "x", 1) != 1 || write(socket_ends[1], "x", 1) != 1) return -1;
  if (msgsnd(queue, &message, 1, 0) != 0 || flock(lock_ends[1], LOCK_UN) != 0) return -1;
  const socklen_t size = sizeof(sa_family_t) + 6;  // "\0" and five hexadecimal digits
  if (connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr*)&address, size) != 0) return -1;
  return pthread_kill(suspended, SIGUSR1);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, NULL);
  if (pipe(pipe_ends) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, socket_ends) != 0) return 2;
  queue = msgget(IPC_PRIVATE, 0600);
  open_ends();
  pthread_t threads[SLEEPERS];
  for (int i = 0; i < SLEEPERS; ++i) {
    pthread_create(&threads[i], NULL, sleep_in, (void*)&kSleepers[i]);
  }
  // From when the last began: a busy machine starts threads late.
  while (atomic_load(&begun) < SLEEPERS) usleep(1000);
  printf("asleep\n");
  const long until = now_ms() + WAIT_MS;
  for (long n = 0; now_ms() < until;) n = work(n);
  if (end_waits() != 0) return 2;
  for (int i = 0; i < SLEEPERS; ++i) pthread_join(threads[i], NULL);
  msgctl(queue, IPC_RMID, NULL);
  printf("all awake\n");
  for (long n = 0;;) {
    n = work(n);
    usleep(1000);
  }
}

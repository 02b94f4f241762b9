// SPDX-License-Identifier: MIT
// One thread per way to wait in the kernel, again and again, with short time-outs: each call must
// return what it should, not before its time, and never EINTR; but a thread that is sent signals
// must see its EINTR. Prints `round N`, N the turns of the slowest thread; `WRONG what` ends it.
// Run it in an IPC namespace of its own: it leaves its queue behind when it is killed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 60
#define NS_PER_MS 1000000L

static const struct timespec wait_time = {0, WAIT_MS* NS_PER_MS};
static int pipe_out[2], pipe_in[2], listener, epoll;
static struct sockaddr_in address;
static int queue;
static atomic_long interruptions;

static void wrong(const char* what, long got) {
  char text[128];
  const int length = snprintf(text, sizeof text, "WRONG %s: %ld, errno %d\n", what, got, errno);
  if (write(1, text, (size_t)length) < 0) _exit(2);
  _exit(1);
}

/* Each way to wait returns whether its result is right; all but `fed` ones last WAIT_MS or more. */
static int by_epoll_wait(void) {
  struct epoll_event event;
  return epoll_wait(epoll, &event, 1, WAIT_MS) == 0;
}
static int by_epoll_pwait(void) {
  struct epoll_event event;
  sigset_t mask;
  sigemptyset(&mask);
  return epoll_pwait(epoll, &event, 1, WAIT_MS, &mask) == 0;
}
static int by_poll(void) {
  struct pollfd fd = {pipe_in[0], POLLIN, 0};
  return poll(&fd, 1, WAIT_MS) == 0;
}
static int by_ppoll(void) {
  struct pollfd fd = {pipe_in[0], POLLIN, 0};
  return ppoll(&fd, 1, &wait_time, NULL) == 0;
}
static int by_select(void) {
  struct timeval time = {0, WAIT_MS * 1000};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(pipe_in[0], &set);
  return select(pipe_in[0] + 1, &set, NULL, NULL, &time) == 0;
}
static int by_pselect(void) { return pselect(0, NULL, NULL, NULL, &wait_time, NULL) == 0; }
static int by_nanosleep(void) { return nanosleep(&wait_time, NULL) == 0; }
static int by_clock_nanosleep(void) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += wait_time.tv_nsec;
  if (until.tv_nsec >= 1000 * NS_PER_MS) {
    until.tv_nsec -= 1000 * NS_PER_MS;
    until.tv_sec += 1;
  }
  return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == 0;
}
static int by_futex(void) {
  static int word;
  return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &wait_time, NULL, 0) == -1 && errno == ETIMEDOUT;
}
static int by_condition(void) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += (until.tv_nsec + wait_time.tv_nsec) / (1000 * NS_PER_MS);
  until.tv_nsec = (until.tv_nsec + wait_time.tv_nsec) % (1000 * NS_PER_MS);
  pthread_mutex_lock(&mutex);
  const int err = pthread_cond_timedwait(&condition, &mutex, &until);
  pthread_mutex_unlock(&mutex);
  return err == ETIMEDOUT;
}
static int by_sigtimedwait(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN + 3);
  return sigtimedwait(&set, NULL, &wait_time) == -1 && errno == EAGAIN;
}
static int by_semtimedop(void) {
  const int semaphores = semget(IPC_PRIVATE, 1, 0600);
  struct sembuf down = {0, -1, 0};
  const int result = semtimedop(semaphores, &down, 1, &wait_time);
  const int saved = errno;
  semctl(semaphores, 0, IPC_RMID);
  errno = saved;
  return result == -1 && saved == EAGAIN;
}
static int by_recv(void) {
  static int pair[2];
  if (pair[0] == 0) {
    const struct timeval time = {0, WAIT_MS * 1000};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 0;
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  }
  char byte;
  return recv(pair[0], &byte, 1, 0) == -1 && errno == EAGAIN;
}
static int by_wait4(void) {
  const pid_t child = fork();
  if (child == 0) {
    const struct timespec longer = {0, (WAIT_MS + 20) * NS_PER_MS};
    syscall(SYS_nanosleep, &longer, NULL);
    _exit(5);
  }
  int status = 0;
  return wait4(child, &status, 0, NULL) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5;
}
static int fed_read(void) {
  char byte;
  return read(pipe_out[0], &byte, 1) == 1 && byte == 'r';
}
static int fed_accept(void) {
  const int fd = accept(listener, NULL, NULL);
  return fd >= 0 && close(fd) == 0;
}
static int fed_msgrcv(void) {
  struct {
    long type;
    char text[8];
  } message;
  return msgrcv(queue, &message, sizeof message.text, 0, 0) == 8;
}

static const struct way {
  const char* name;
  int (*wait)(void);
  int least_ms;
} ways[] = {
    {"epoll_wait", by_epoll_wait, WAIT_MS},
    {"epoll_pwait", by_epoll_pwait, WAIT_MS},
    {"poll", by_poll, WAIT_MS},
    {"ppoll", by_ppoll, WAIT_MS},
    {"select", by_select, WAIT_MS},
    {"pselect", by_pselect, WAIT_MS},
    {"nanosleep", by_nanosleep, WAIT_MS},
    {"clock_nanosleep", by_clock_nanosleep, WAIT_MS},
    {"futex", by_futex, WAIT_MS},
    {"pthread_cond_timedwait", by_condition, WAIT_MS},
    {"sigtimedwait", by_sigtimedwait, WAIT_MS},
    {"semtimedop", by_semtimedop, WAIT_MS},
    {"recv", by_recv, WAIT_MS},
    {"wait4", by_wait4, WAIT_MS},
    {"read", fed_read, 0},
    {"accept", fed_accept, 0},
    {"msgrcv", fed_msgrcv, 0},
};
#define WAYS (sizeof ways / sizeof *ways)
static atomic_long turns[WAYS];

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void* waiter(void* arg) {
  const struct way* way = arg;
  for (;;) {
    errno = 0;
    const double start = now_ms();
    if (!way->wait()) wrong(way->name, -1);
    const double took_ms = now_ms() - start;
    if (took_ms + 1 < way->least_ms) wrong(way->name, (long)took_ms); /* clocks round */
    atomic_fetch_add(&turns[way - ways], 1);
  }
  return arg;
}

static void* feeder(void* arg) {
  for (;;) {
    nanosleep(&wait_time, NULL);
    if (write(pipe_out[1], "r", 1) != 1) wrong("write", -1);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr*)&address, sizeof address) != 0) wrong("connect", fd);
    close(fd);
    const struct {
      long type;
      char text[8];
    } message = {1, "message"};
    if (msgsnd(queue, &message, sizeof message.text, 0) != 0) wrong("msgsnd", queue);
  }
  return arg;
}

static void on_signal(int sig) { (void)sig; }

/* Whoever has a handler must still be interrupted. */
static void* interrupted(void* arg) {
  struct epoll_event event;
  for (;;) {
    const int result = epoll_wait(epoll, &event, 1, -1);
    if (result != -1 || errno != EINTR) wrong("an interrupted epoll_wait", result);
    atomic_fetch_add(&interruptions, 1);
  }
  return arg;
}

static void prepare(void) {
  socklen_t size = sizeof address;
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  listener = socket(AF_INET, SOCK_STREAM, 0);
  epoll = epoll_create1(0);
  queue = msgget(IPC_PRIVATE, 0600);
  if (pipe(pipe_in) != 0 || pipe(pipe_out) != 0 || epoll < 0 || queue < 0 ||
      bind(listener, (struct sockaddr*)&address, size) != 0 || listen(listener, 8) != 0 ||
      getsockname(listener, (struct sockaddr*)&address, &size) != 0) {
    wrong("prepare", -1);
  }
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  prepare();
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  pthread_t thread, signalled;
  if (pthread_create(&signalled, NULL, interrupted, NULL) != 0) return 2;
  if (pthread_create(&thread, NULL, feeder, NULL) != 0) return 2;
  for (size_t i = 0; i < WAYS; ++i) {
    if (pthread_create(&thread, NULL, waiter, (void*)&ways[i]) != 0) return 2;
  }
  for (;;) {
    usleep(20000);
    pthread_kill(signalled, SIGUSR1);
    long least = atomic_load(&interruptions);
    for (size_t i = 0; i < WAYS; ++i) {
      const long now = atomic_load(&turns[i]);
      if (now < least) least = now;
    }
    printf("round %ld\n", least);
  }
}

// SPDX-License-Identifier: MIT
// A process that attaches to itself: carries out what it is told on standard input, says `done` or
// the errno of what failed, and can have threads that spin meanwhile. Usage: selfish THREADS
//   cp OBJECT PATH | rm PATH | echo TEXT PATH | call N
//   storm N PATH PATH: two threads write 0 and 1 to a path each, N times, under a timer's signals
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

__attribute__((noinline, used)) long work(long n) {
  __asm__ volatile("" ::: "memory");
  return n * 3 + 1;
}

static volatile long spins;

static void* spin(void* unused) {
  for (;;) {
    if (work(spins) != spins * 3 + 1) printf("WRONG\n");
    usleep(100);
  }
  return unused;
}

static void say(const char* what, long result) {
  if (result < 0)
    printf("%s failed with %s\n", what, strerrorname_np(errno));
  else
    printf("%s done %ld\n", what, result);
}

static void copy(const char* object, const char* path) {
  static char bytes[1 << 20];
  const int from = open(object, O_RDONLY);
  const long size = read(from, bytes, sizeof bytes);
  close(from);
  const int to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (to < 0) return say("open", to);
  if (write(to, bytes, (size_t)size) != size) say("write", -1);
  say("close", close(to));
}

static void echo(const char* text, const char* path) {
  char line[256];
  const int length = snprintf(line, sizeof line, "%s\n", text);
  const int to = open(path, O_WRONLY | O_TRUNC);
  if (to < 0) return say("open", to);
  say("write", write(to, line, (size_t)length));
  if (close(to) != 0) say("close", -1);
}

static int storm_turns;
static volatile long storm_writes;

static void* write_turns(void* path) {
  for (int i = 1; i <= storm_turns; ++i) {
    const int to = open(path, O_WRONLY);
    long wrote;
    // A signal may end a wait for us, as it may end any other.
    while ((wrote = write(to, i % 2 == 0 ? "1\n" : "0\n", 2)) == -1 && errno == EINTR) continue;
    if (wrote == 2) __atomic_add_fetch(&storm_writes, 1, __ATOMIC_RELAXED);
    close(to);
  }
  return NULL;
}

static void on_alarm(int sig) { (void)sig; }

static void storm(const char* a, const char* b) {
  const struct itimerval often = {{0, 3000}, {0, 3000}}, never = {{0, 0}, {0, 0}};
  struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  storm_writes = 0;
  setitimer(ITIMER_REAL, &often, NULL);
  pthread_t thread;
  pthread_create(&thread, NULL, write_turns, (void*)b);
  write_turns((void*)a);
  pthread_join(thread, NULL);
  setitimer(ITIMER_REAL, &never, NULL);
  say("storm", storm_writes);
}

int main(int argc, char** argv) {
  char line[4096], one[2048], two[2048];
  int count;
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 0); ++i) {
    pthread_t thread;
    pthread_create(&thread, NULL, spin, NULL);
  }
  printf("ready\n");
  while (fgets(line, sizeof line, stdin) != NULL) {
    if (sscanf(line, "cp %2047s %2047s", one, two) == 2) {
      copy(one, two);
    } else if (sscanf(line, "rm %2047s", one) == 1) {
      say("unlink", unlink(one));
    } else if (sscanf(line, "echo %2047s %2047s", one, two) == 2) {
      echo(one, two);
    } else if (sscanf(line, "storm %d %2047s %2047s", &storm_turns, one, two) == 3) {
      storm(one, two);
    } else if (sscanf(line, "call %d", &count) == 1) {
      for (int i = 0; i < count; ++i) work(i);
      printf("called\n");
    }
  }
  return 0;
}

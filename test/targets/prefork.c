/* SPDX-License-Identifier: MIT */
/* A pre-fork server: three workers accept connections, answer each with `PID n` and end after a
 * number of them, whereupon the parent forks another. Usage: prefork REQUESTS. Prints `port N` and
 * `worker PID`, and `ended PID STATUS` for a worker that did not end well. SIGHUP makes the parent
 * execute itself, keeping the socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 3, LISTENER = 9 };

static volatile sig_atomic_t wants_exec;
static void on_exec(int sig) {
  (void)sig;
  wants_exec = 1;
}

__attribute__((noinline, used)) int serve(int connection, long number) {
  char text[64];
  const int size = snprintf(text, sizeof text, "%d %ld\n", getpid(), number);
  return write(connection, text, (size_t)size) == size ? 0 : 1;
}

static int work(long requests) {
  for (long i = 1; i <= requests; ++i) {
    const int connection = accept(LISTENER, 0, 0);
    if (connection < 0) return 3;
    if (serve(connection, i) != 0) return 4;
    shutdown(connection, SHUT_WR);
    close(connection);
  }
  return 0;
}

static void fork_worker(long requests) {
  const pid_t pid = fork();
  if (pid == 0) {
    signal(SIGHUP, SIG_DFL);
    _exit(work(requests));
  }
  printf("worker %d\n", pid);
}

int main(int argc, char** argv) {
  const long requests = argc > 1 ? atol(argv[1]) : 100;
  setvbuf(stdout, NULL, _IOLBF, 0);
  struct sockaddr_in address = {.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (getsockname(LISTENER, (struct sockaddr*)&address, &size) != 0) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    bind(fd, (struct sockaddr*)&address, sizeof address);
    listen(fd, 64);
    dup2(fd, LISTENER);
    close(fd);
    getsockname(LISTENER, (struct sockaddr*)&address, &size);
  }
  printf("port %d\n", ntohs(address.sin_port));
  struct sigaction action = {.sa_handler = on_exec};
  sigaction(SIGHUP, &action, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, 0);
  for (int i = 0; i < WORKERS; ++i) fork_worker(requests);
  for (;;) {
    if (wants_exec) execv("/proc/self/exe", argv);
    int status;
    const pid_t pid = waitpid(-1, &status, 0);
    if (pid < 0) {
      if (errno == ECHILD) usleep(1000);
      continue;
    }
    if (status != 0) printf("ended %d %d\n", pid, status);
    fork_worker(requests);
  }
}

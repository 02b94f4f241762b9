// SPDX-License-Identifier: MIT
// A process with threads that the kernel made: a poller of an io_uring's submission queue, and
// workers that read from a pipe for it. They stand in /proc/PID/task, and have no code of theirs.
// Prints `round N` while both work: `WRONG what` and status 1 when an answer is not as it should
// be. Usage: io_uring [leaves]: the first thread ends at SIGUSR1.
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 8, POLLER_IDLE_MS = 5 };

static void wrong(const char* what) {
  printf("WRONG %s\n", what);
  fflush(stdout);
  _exit(1);
}

struct ring {
  int fd;
  unsigned flags;
  _Atomic unsigned *sq_tail, *sq_flags, *cq_head, *cq_tail;
  unsigned sq_mask, cq_mask, *sq_array;
  struct io_uring_sqe* entries;
  struct io_uring_cqe* answers;
};

static struct ring open_ring(unsigned flags) {
  struct io_uring_params params;
  memset(&params, 0, sizeof params);
  params.flags = flags;
  params.sq_thread_idle = POLLER_IDLE_MS;
  struct ring ring = {.fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &params), .flags = flags};
  if (ring.fd < 0) wrong("io_uring_setup");
  const size_t sq_bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  const size_t cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  const int prot = PROT_READ | PROT_WRITE;
  char* sq = mmap(NULL, sq_bytes, prot, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
  char* cq = mmap(NULL, cq_bytes, prot, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
  ring.entries = mmap(NULL, params.sq_entries * sizeof(struct io_uring_sqe), prot, MAP_SHARED,
                      ring.fd, IORING_OFF_SQES);
  if (sq == MAP_FAILED || cq == MAP_FAILED || ring.entries == MAP_FAILED) wrong("mmap");
  ring.sq_tail = (_Atomic unsigned*)(sq + params.sq_off.tail);
  ring.sq_flags = (_Atomic unsigned*)(sq + params.sq_off.flags);
  ring.sq_mask = *(unsigned*)(sq + params.sq_off.ring_mask);
  ring.sq_array = (unsigned*)(sq + params.sq_off.array);
  ring.cq_head = (_Atomic unsigned*)(cq + params.cq_off.head);
  ring.cq_tail = (_Atomic unsigned*)(cq + params.cq_off.tail);
  ring.cq_mask = *(unsigned*)(cq + params.cq_off.ring_mask);
  ring.answers = (struct io_uring_cqe*)(cq + params.cq_off.cqes);
  return ring;
}

static void submit_read(struct ring* ring, int fd, void* to, unsigned bytes, unsigned flags) {
  const unsigned tail = atomic_load(ring->sq_tail);
  struct io_uring_sqe* entry = &ring->entries[tail & ring->sq_mask];
  memset(entry, 0, sizeof *entry);
  entry->opcode = IORING_OP_READ;
  entry->fd = fd;
  entry->addr = (uintptr_t)to;
  entry->len = bytes;
  entry->flags = (unsigned char)flags;
  ring->sq_array[tail & ring->sq_mask] = tail & ring->sq_mask;
  atomic_store(ring->sq_tail, tail + 1);
  const int is_polled = (ring->flags & IORING_SETUP_SQPOLL) != 0;
  if (is_polled && !(atomic_load(ring->sq_flags) & IORING_SQ_NEED_WAKEUP)) return;
  const unsigned wake = is_polled ? IORING_ENTER_SQ_WAKEUP : 0;
  if (syscall(SYS_io_uring_enter, ring->fd, 1, 0, wake, NULL, 0) != 1) wrong("io_uring_enter");
}

static int answer(struct ring* ring) {
  const unsigned head = atomic_load(ring->cq_head);
  while (atomic_load(ring->cq_tail) == head) usleep(100);
  const int result = ring->answers[head & ring->cq_mask].res;
  atomic_store(ring->cq_head, head + 1);
  return result;
}

/* The probed function. */
__attribute__((noinline, used)) long work(long n) {
  __asm__ volatile("" ::: "memory");
  return n + 1;
}

static void* works(void* arg) {
  struct ring* polled = arg;
  struct ring worked = open_ring(0);
  const int zeros = fileno(fopen("/dev/zero", "re"));
  int ends[2];
  if (pipe(ends) != 0) wrong("pipe");
  long n = 0;
  for (long round = 1;; ++round) {
    char byte = 0, zero = 1;
    // The worker sleeps in its read while we work.
    submit_read(&worked, ends[0], &byte, 1, IOSQE_ASYNC);
    for (int i = 0; i < 20; ++i) {
      n = work(n);
      usleep(1000);
    }
    if (write(ends[1], "x", 1) != 1) wrong("write");
    if (answer(&worked) != 1 || byte != 'x') wrong("a worker's read");
    submit_read(polled, zeros, &zero, 1, 0);
    if (answer(polled) != 1 || zero != 0) wrong("a read that the poller submitted");
    printf("round %ld\n", round);
  }
  return arg;
}

int main(int argc, char** argv) {
  (void)argv;
  setvbuf(stdout, NULL, _IOLBF, 0);
  static struct ring polled;
  polled = open_ring(IORING_SETUP_SQPOLL);
  if (argc == 1) works(&polled);
  sigset_t order;
  sigemptyset(&order);
  sigaddset(&order, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &order, NULL);
  pthread_t thread;
  int sig = 0;
  if (pthread_create(&thread, NULL, works, &polled) != 0) wrong("pthread_create");
  sigwait(&order, &sig);
  pthread_exit(NULL);  // the poller is then the first that lives in the list of threads
}

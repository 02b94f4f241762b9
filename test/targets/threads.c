// SPDX-License-Identifier: MIT
// Threads that call work() again and again; `end N` on standard input ends N of them.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((noinline)) int work(int n) {
  __asm__ volatile("" ::: "memory");
  return n + 1;
}

static atomic_int to_end;

static void* run(void* sum) {
  for (;;) {
    *(int*)sum = work(*(int*)sum);
    usleep(1000);
    int left = atomic_load(&to_end);
    if (left > 0 && atomic_compare_exchange_strong(&to_end, &left, left - 1)) return NULL;
  }
}

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const int count = argc > 1 ? atoi(argv[1]) : 4;
  int* sums = calloc((size_t)count, sizeof *sums);
  for (int i = 0; i < count; i++) {
    pthread_t thread;
    pthread_create(&thread, NULL, run, &sums[i]);
    pthread_detach(thread);
  }
  puts("started");
  int wanted = 0;
  while (scanf(" end %d", &wanted) == 1) {
    atomic_store(&to_end, wanted);
    while (atomic_load(&to_end) > 0) usleep(1000);
    printf("ended %d\n", wanted);
  }
}

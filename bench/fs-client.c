// SPDX-License-Identifier: MIT
// The client of the file rows, the same for every server: times one operation on one path.
// Usage: fs-client stat|orc PATH COUNT     prints: p50 min p99 (µs of wall clock per operation)
//   orc: open, read of up to 4 KiB, close.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { kMaxCount = 1000000, kWarmUp = 50 };

static int op_stat(const char* path) {
  struct stat attributes;
  return stat(path, &attributes);
}

static int op_orc(const char* path) {
  char buf[4096];
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t len = read(fd, buf, sizeof buf);
  return close(fd) != 0 || len <= 0 ? -1 : 0;
}

static double wall_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

int main(int argc, char** argv) {
  const int count = argc == 4 ? atoi(argv[3]) : 0;
  if (count < 1 || count > kMaxCount) {
    fprintf(stderr, "usage: fs-client stat|orc PATH COUNT\n");
    return 2;
  }
  int (*operation)(const char*) = strcmp(argv[1], "orc") == 0 ? op_orc : op_stat;
  double* results = malloc((size_t)count * sizeof *results);
  if (!results) return 1;
  for (int i = -kWarmUp; i < count; i++) {
    const double start = wall_us();
    if (operation(argv[2]) != 0) {
      perror(argv[2]);
      return 1;
    }
    if (i >= 0) results[i] = wall_us() - start;
  }
  qsort(results, (size_t)count, sizeof results[0], ascending);
  printf("%.3f %.3f %.3f\n", results[count / 2], results[0], results[(long)count * 99 / 100]);
  free(results);
  return 0;
}

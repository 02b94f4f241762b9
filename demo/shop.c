// SPDX-License-Identifier: MIT
// The program that the README and the demo trace: a shop that takes an order every five
// milliseconds. It knows nothing about tracing. Prints `served N` once a second. Usage: shop
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct order {
  char item[16];
  int count;
};

__attribute__((noinline)) int parse_order(const char* line, struct order* order) {
  return sscanf(line, "%15s %d", order->item, &order->count) == 2;
}

__attribute__((noinline)) int price_of(const char* item, int count) {
  return (int)strlen(item) * 10 * count;
}

__attribute__((noinline)) long serve(const char* line) {
  struct order order;
  if (!parse_order(line, &order)) return -1;
  return price_of(order.item, order.count);
}

int main(void) {
  static const char* const lines[] = {"apple 3", "pear 2", "apple 1", "cherry", "plum 12"};
  const struct timespec pause = {0, 5000000};
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (unsigned long served = 0;; ++served) {
    if (serve(lines[served % 5]) > 1000000) return 1;
    if (served % 200 == 199) printf("served %lu\n", served + 1);
    nanosleep(&pause, NULL);
  }
}

// SPDX-License-Identifier: MIT
// A library, built without frame pointers, that calls whom it was told to.
#include <string.h>

__attribute__((visibility("default"), noinline)) int calls_back(void (*fn)(int), int n) {
  volatile char room[200];
  memset((char*)room, n, sizeof room);
  fn(n);
  return room[7];
}

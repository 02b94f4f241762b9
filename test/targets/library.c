// SPDX-License-Identifier: MIT
// A shared object with one function, to be loaded and unloaded.
__attribute__((noinline)) long qfun(long n) {
  volatile long x = n;
  return x * 3 + 1;
}

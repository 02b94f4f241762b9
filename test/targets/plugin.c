// SPDX-License-Identifier: MIT
// A library whose function is called by its own constructor: a probe that comes too late misses it.
__attribute__((visibility("default"), noinline)) long plugin_work(long n) {
  volatile long x = n;
  return x * 3 + 1;
}

__attribute__((constructor)) static void at_load(void) {
  for (int i = 0; i < 5; ++i) plugin_work(i);
}

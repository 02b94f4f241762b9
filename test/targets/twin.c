// SPDX-License-Identifier: MIT
// The second static function named `twin` of the program in shapes.c.
__attribute__((noinline, used)) static long twin(long n) {
  __asm__ volatile("" ::: "memory");
  return n * 5 + 2;
}

long twin_elsewhere(long n) { return twin(n); }

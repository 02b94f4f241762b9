// SPDX-License-Identifier: MIT
// A library that changes the signal mask by a system call of its own. Flags decide how it looks.
#include <signal.h>

__attribute__((visibility("default"))) void set_mask(const sigset_t* set) {
  long result;
  register long size __asm__("r10") = 8;
  __asm__ volatile("movl $14, %%eax\n\tsyscall"
                   : "=a"(result)
                   : "D"(2L /* SIG_SETMASK */), "S"(set), "d"(0L), "r"(size)
                   : "rcx", "r11", "memory");
}

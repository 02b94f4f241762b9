// SPDX-License-Identifier: MIT
// raw_syscall: a system call that no symbol stands for. Where the addon is, `syscall` is its own
// (docs/adr/0004-libbpf-over-our-bpf.md).
#pragma once

namespace bpftime {

/// What the kernel returns: -errno on failure; errno itself stays as it is.
inline long raw_syscall(long nr, const long (&a)[6]) {
  register long r10 __asm__("r10") = a[3];
  register long r8 __asm__("r8") = a[4];
  register long r9 __asm__("r9") = a[5];
  long ret;
  __asm__ volatile("syscall"
                   : "=a"(ret)
                   : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return ret;
}

}  // namespace bpftime

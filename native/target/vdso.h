// SPDX-License-Identifier: MIT
// What the daemon uses of a target's vDSO, the one piece of code that every process has, static
// ones too. Reads only.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "../base/result.h"

namespace bpftime::target {

/// Addresses in the target.
struct Vdso {
  uint64_t syscall_insn = 0;   // of a `syscall` instruction, 0f 05
  uint64_t clock_gettime = 0;  // __vdso_clock_gettime; 0: there is none
};

/// Fails with EOPNOTSUPP when the process has no vDSO with a system call instruction.
Result<Vdso> find_vdso(pid_t pid);

}  // namespace bpftime::target

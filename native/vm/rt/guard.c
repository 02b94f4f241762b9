/* SPDX-License-Identifier: MIT */
/* Memory that may be unmapped, protected or unmapped while we read it. The only instructions of
 * the runtime that may fault lie between rt_guard_begin and rt_guard_end, in one leaf function that
 * pushes nothing: the fixup returns from it with the number of bytes done, kept in rdi. */
#include "guard.h"

#include "rt.h"

/* u64 guard_copy(void* dst, const void* src, u64 len): bytes copied, less than len after a fault
 * (up to 7 bytes before the one that faulted). */
u64 rt_guard_copy(void* dst, u64 src, u64 len);
__asm__(
    ".pushsection .text.rt_guard, \"ax\", @progbits\n"
    ".balign 16\n"
    ".hidden rt_guard_copy, rt_guard_begin, rt_guard_end, rt_guard_fixup\n"
    ".globl rt_guard_copy, rt_guard_begin, rt_guard_end, rt_guard_fixup\n"
    ".type rt_guard_copy, @function\n"
    "rt_guard_copy:\n"
    "rt_guard_begin:\n"
    "  mov %rdi, %r8\n"
    "  mov %rdx, %rcx\n"
    "  cmp $256, %rcx\n"
    "  jae 4f\n"
    "1:\n"
    "  cmp $8, %rcx\n"
    "  jb 3f\n"
    "2:\n"
    "  mov (%rsi), %rax\n"
    "  mov %rax, (%rdi)\n"
    "  add $8, %rsi\n"
    "  add $8, %rdi\n"
    "  sub $8, %rcx\n"
    "  cmp $8, %rcx\n"
    "  jae 2b\n"
    "3:\n"
    "  test %rcx, %rcx\n"
    "  jz 5f\n"
    "  movzbl (%rsi), %eax\n"
    "  mov %al, (%rdi)\n"
    "  inc %rsi\n"
    "  inc %rdi\n"
    "  dec %rcx\n"
    "  jmp 3b\n"
    "4:\n"
    "  rep movsb\n"
    "5:\n"
    "rt_guard_end:\n"
    "rt_guard_fixup:\n"
    "  mov %rdi, %rax\n"
    "  sub %r8, %rax\n"
    "  ret\n"
    ".size rt_guard_copy, . - rt_guard_copy\n"
    ".popsection\n");

static u64 copy_by_kernel(long nr, u64 local, u64 remote, u64 len) {
  u64 ours[2] = {local, len};
  u64 theirs[2] = {remote, len};
  long done = rt_syscall6(nr, rt_pid(), (u64)ours, 1, (u64)theirs, 1, 0);
  return done < 0 ? 0 : (u64)done;
}

/* A fault on a blocked signal kills the process, whatever handler it has. The two signals are let
 * through for the length of one read; returns which of them were blocked. About 100 ns: this goes
 * when the program's own mask changes are seen by us. */
#define FAULT_SIGNALS ((1ull << (7 - 1)) | (1ull << (11 - 1))) /* SIGBUS, SIGSEGV */
RT_INLINE u64 let_faults_through(void) {
  if (rt_env.guard_mode != 1) return 0;
  u64 set = FAULT_SIGNALS;
  u64 before = 0;
  rt_syscall6(RT_SYS_RT_SIGPROCMASK, 1 /* SIG_UNBLOCK */, (u64)&set, (u64)&before, 8, 0, 0);
  return before & FAULT_SIGNALS;
}
RT_INLINE void block_again(u64 blocked) {
  if (RT_LIKELY(blocked == 0)) return;
  rt_syscall6(RT_SYS_RT_SIGPROCMASK, 0 /* SIG_BLOCK */, (u64)&blocked, 0, 8, 0, 0);
}

RT_INLINE u64 copy_in(void* dst, u64 src, u64 len) {
  if (rt_env.guard_mode == 1) return rt_guard_copy(dst, src, len);
  return copy_by_kernel(RT_SYS_PROCESS_VM_READV, (u64)dst, src, len);
}

RT_INLINE int is_user_range(u64 addr, u64 len) {
  return addr < RT_USER_ADDR_END && len <= RT_USER_ADDR_END - addr;
}

long rt_read_user(void* dst, u64 src, u64 len) {
  if (len == 0) return 0;
  const u64 blocked = let_faults_through();
  const u64 done = is_user_range(src, len) ? copy_in(dst, src, len) : 0;
  block_again(blocked);
  if (RT_LIKELY(done == len)) return 0;
  rt_memset(dst, 0, len);
  return -RT_EFAULT;
}

/* What follows the NUL in `dst` stays as it was, as in the kernel: programs use buffers that they
 * zeroed as keys of maps. */
static long read_str(void* dst, u64 src, u64 size) {
  u8* out = dst;
  u8 piece[256];
  /* Bytes per step: a system call is dear, a plain load should not run ahead of the NUL. Steps end
   * at aligned addresses, so none touches a page that the string does not reach. */
  u64 step = rt_env.guard_mode == 1 ? 64 : sizeof(piece);
  u64 done = 0;
  while (done < size) {
    u64 chunk = step - ((src + done) & (step - 1));
    if (chunk > size - done) chunk = size - done;
    if (!is_user_range(src + done, chunk) || copy_in(piece, src + done, chunk) != chunk) {
      rt_memset(dst, 0, size);
      return -RT_EFAULT;
    }
    for (u64 i = 0; i < chunk; i++) {
      out[done + i] = piece[i];
      if (piece[i] == 0) return (long)(done + i + 1);
    }
    done += chunk;
  }
  out[size - 1] = 0;
  return (long)size;
}

long rt_read_user_str(void* dst, u64 src, u64 size) {
  if (size == 0) return 0;
  const u64 blocked = let_faults_through();
  const long result = read_str(dst, src, size);
  block_again(blocked);
  return result;
}

long rt_write_user(u64 dst, const void* src, u64 len) {
  if (len == 0) return 0;
  if (!is_user_range(dst, len)) return -RT_EFAULT;
  return copy_by_kernel(RT_SYS_PROCESS_VM_WRITEV, (u64)src, dst, len) == len ? 0 : -RT_EFAULT;
}

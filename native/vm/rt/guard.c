/* SPDX-License-Identifier: MIT */
/* Memory that may be unmapped, protected or unmapped while we read it. The only instructions of
 * the runtime that may fault lie between rt_guard_begin and rt_guard_end, in leaf functions that
 * push nothing: the fixup returns from them with the number of bytes done, kept in rdi. */
#include "guard.h"

#include "mask.h"
#include "rt.h"

/* Bytes copied, less than len after a fault (up to 15 bytes before the one that faulted). */
u64 rt_guard_copy(void* dst, u64 src, u64 len);
/* Copies up to and with the NUL: aligned words, so that no page is touched which the string does
 * not reach. Neither found nor `done == size` is a fault. */
struct guard_text {
  u64 done, found;
};
struct guard_text rt_guard_text(void* dst, u64 src, u64 size);
__asm__(
    ".pushsection .text.rt_guard, \"ax\", @progbits\n"
    ".balign 16\n"
    ".hidden rt_guard_copy, rt_guard_text, rt_guard_begin, rt_guard_end, rt_guard_fixup\n"
    ".globl rt_guard_copy, rt_guard_text, rt_guard_begin, rt_guard_end, rt_guard_fixup\n"
    ".type rt_guard_copy, @function\n"
    "rt_guard_copy:\n"
    "rt_guard_begin:\n"
    "  mov %rdi, %r8\n"
    "  mov %rdx, %rcx\n"
    "  cmp $256, %rcx\n"
    "  jae 7f\n"
    "  sub $16, %rcx\n"
    "  jb 2f\n"
    "1:\n"
    "  mov (%rsi), %rax\n"
    "  mov 8(%rsi), %r9\n"
    "  mov %rax, (%rdi)\n"
    "  mov %r9, 8(%rdi)\n"
    "  add $16, %rsi\n"
    "  add $16, %rdi\n"
    "  sub $16, %rcx\n"
    "  jae 1b\n"
    "  add $16, %rcx\n"
    "  jz 5f\n"
    /* The last 16 bytes, whatever of them was copied already. */
    "  mov -16(%rsi,%rcx), %rax\n"
    "  mov -8(%rsi,%rcx), %r9\n"
    "  mov %rax, -16(%rdi,%rcx)\n"
    "  mov %r9, -8(%rdi,%rcx)\n"
    "  add %rcx, %rdi\n"
    "  jmp 5f\n"
    "2:\n" /* the low bits of rdx are the length */
    "  cmp $8, %edx\n"
    "  jb 3f\n"
    "  mov (%rsi), %rax\n"
    "  mov -8(%rsi,%rdx), %r9\n"
    "  mov %rax, (%rdi)\n"
    "  mov %r9, -8(%rdi,%rdx)\n"
    "  add %rdx, %rdi\n"
    "  jmp 5f\n"
    "3:\n"
    "  cmp $4, %edx\n"
    "  jb 4f\n"
    "  mov (%rsi), %eax\n"
    "  mov -4(%rsi,%rdx), %r9d\n"
    "  mov %eax, (%rdi)\n"
    "  mov %r9d, -4(%rdi,%rdx)\n"
    "  add %rdx, %rdi\n"
    "  jmp 5f\n"
    "4:\n"
    "  test %edx, %edx\n"
    "  jz 5f\n"
    "6:\n"
    "  movzbl (%rsi), %eax\n"
    "  mov %al, (%rdi)\n"
    "  inc %rsi\n"
    "  inc %rdi\n"
    "  dec %edx\n"
    "  jnz 6b\n"
    "  jmp 5f\n"
    "7:\n"
    "  rep movsb\n"
    "5:\n"
    "  mov %rdi, %rax\n"
    "  sub %r8, %rax\n"
    "  ret\n"
    ".size rt_guard_copy, . - rt_guard_copy\n"
    ".balign 16\n"
    ".type rt_guard_text, @function\n"
    "rt_guard_text:\n" /* rcx: bytes left, r9: of the word, r10 and r11: for the search */
    "  mov %rdi, %r8\n"
    "  mov %rdx, %r10\n"
    "  xor %edx, %edx\n" /* not found, should a load fault */
    "  mov %rsi, %rcx\n"
    "  and $7, %ecx\n"
    "  mov $8, %r9d\n"
    "  sub %rcx, %r9\n" /* bytes of the first word that are the string's */
    "  and $-8, %rsi\n"
    "  shl $3, %ecx\n"
    "  mov (%rsi), %rax\n"
    "  shr %cl, %rax\n"
    "  mov %r10, %rcx\n"
    "  jmp 3f\n"
    "1:\n" /* a whole word without a NUL, if it is one */
    "  mov (%rsi), %rax\n"
    "  cmp $8, %rcx\n"
    "  jb 2f\n"
    "  movabs $0x0101010101010101, %r10\n"
    "  mov %rax, %r11\n"
    "  sub %r10, %r11\n"
    "  mov %rax, %r10\n"
    "  not %r10\n"
    "  and %r10, %r11\n"
    "  movabs $0x8080808080808080, %r10\n"
    "  test %r10, %r11\n"
    "  jnz 2f\n"
    "  mov %rax, (%rdi)\n"
    "  add $8, %rdi\n"
    "  add $8, %rsi\n"
    "  sub $8, %rcx\n"
    "  jnz 1b\n"
    "  jmp 5f\n"
    "2:\n"
    "  mov $8, %r9d\n"
    "3:\n" /* byte by byte */
    "  mov %al, (%rdi)\n"
    "  inc %rdi\n"
    "  test %al, %al\n"
    "  jz 4f\n"
    "  shr $8, %rax\n"
    "  dec %rcx\n"
    "  jz 5f\n"
    "  dec %r9\n"
    "  jnz 3b\n"
    "  add $8, %rsi\n"
    "  jmp 1b\n"
    "4:\n"
    "  mov $1, %edx\n"
    "5:\n"
    "rt_guard_end:\n"
    "rt_guard_fixup:\n"
    "  mov %rdi, %rax\n"
    "  sub %r8, %rax\n"
    "  ret\n"
    ".size rt_guard_text, . - rt_guard_text\n"
    ".popsection\n");

static u64 copy_by_kernel(long nr, u64 local, u64 remote, u64 len) {
  u64 ours[2] = {local, len};
  u64 theirs[2] = {remote, len};
  long done = rt_syscall6(nr, rt_pid(), (u64)ours, 1, (u64)theirs, 1, 0);
  return done < 0 ? 0 : (u64)done;
}

/* A fault on a blocked signal kills the process, whatever handler it has. Where it is not known
 * that the two signals are open they are let through for the length of one read; returns which of
 * them were blocked. */
static __attribute__((noinline)) u64 ask_and_let_through(void) {
  u64 set = RT_FAULT_SIGNALS;
  u64 before = 0;
  /* First the token: whatever comes between it and the answer takes it away. */
  const struct rt_token* token = rt_mask_claim();
  const long err =
      rt_syscall6(RT_SYS_RT_SIGPROCMASK, 1 /* SIG_UNBLOCK */, (u64)&set, (u64)&before, 8, 0, 0);
  if (token != 0) rt_mask_judge(token, err == 0 ? before : ~0ull);
  return before & RT_FAULT_SIGNALS;
}
RT_INLINE u64 let_faults_through(void) {
  if (rt_env.guard_mode != 1 || RT_LIKELY(rt_mask_is_open())) return 0;
  return ask_and_let_through();
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

void rt_reads_begin(struct rt_reads* reads) {
  reads->start = 0;
  reads->count = 0;
  reads->blocked = let_faults_through();
}

void rt_reads_end(const struct rt_reads* reads) { block_again(reads->blocked); }

/* The words from `addr` to the end of its page, as far as there is room: all are there, or none. */
static long fill_reads(struct rt_reads* reads, u64 addr) {
  const u64 in_page = (ABI_PAGE_BYTES - (addr & (ABI_PAGE_BYTES - 1))) / 8;
  const u64 count = in_page < RT_READS_WORDS ? in_page : RT_READS_WORDS;
  reads->count = 0;
  const u64 done = copy_by_kernel(RT_SYS_PROCESS_VM_READV, (u64)reads->words, addr, count * 8);
  if (done != count * 8) return -RT_EFAULT;
  reads->start = addr;
  reads->count = count;
  return 0;
}

long rt_reads_word(struct rt_reads* reads, u64 addr, u64* out) {
  *out = 0;
  if (RT_UNLIKELY(!is_user_range(addr, 8))) return -RT_EFAULT;
  if (rt_env.guard_mode == 1) {
    if (RT_LIKELY(rt_guard_copy(out, addr, 8) == 8)) return 0;
    *out = 0;
    return -RT_EFAULT;
  }
  if ((addr & 7) != 0) return rt_read_by_kernel(out, addr, 8);
  if (addr - reads->start >= reads->count * 8 && fill_reads(reads, addr) != 0) return -RT_EFAULT;
  *out = reads->words[(addr - reads->start) / 8];
  return 0;
}

long rt_read_by_kernel(void* dst, u64 src, u64 len) {
  if (!is_user_range(src, len)) return -RT_EFAULT;
  const u64 done = copy_by_kernel(RT_SYS_PROCESS_VM_READV, (u64)dst, src, len);
  return done == len ? 0 : -RT_EFAULT;
}

/* A system call is dear: a piece of up to 256 bytes for each, ending at an aligned address. */
static struct guard_text text_by_kernel(u8* out, u64 src, u64 size) {
  struct guard_text text = {0, 0};
  u8 piece[256];
  while (text.done < size) {
    u64 chunk = sizeof(piece) - ((src + text.done) & (sizeof(piece) - 1));
    if (chunk > size - text.done) chunk = size - text.done;
    if (rt_read_by_kernel(piece, src + text.done, chunk) != 0) return text;
    for (u64 i = 0; i < chunk; i++) {
      out[text.done++] = piece[i];
      text.found = piece[i] == 0;
      if (text.found) return text;
    }
  }
  return text;
}

/* What follows the NUL in `dst` stays as it was, as in the kernel: programs use buffers that they
 * zeroed as keys of maps. */
static long read_str(u8* dst, u64 src, u64 size) {
  const u64 room = src < RT_USER_ADDR_END ? RT_USER_ADDR_END - src : 0;
  const u64 limit = size < room ? size : room;
  struct guard_text text = {0, 0};
  if (limit != 0) {
    text =
        rt_env.guard_mode == 1 ? rt_guard_text(dst, src, limit) : text_by_kernel(dst, src, limit);
  }
  if (text.found) return (long)text.done;
  if (text.done == size) {
    dst[size - 1] = 0;
    return (long)size;
  }
  rt_memset(dst, 0, size);
  return -RT_EFAULT;
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

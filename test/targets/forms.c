// SPDX-License-Identifier: MIT
// Functions whose first five bytes cannot take a jump, each in another way. Threads call them and
// compare every result; a `round N` line is said as long as none was wrong. Usage: forms THREADS
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BEGIN(name) ".globl " #name "\n.type " #name ", @function\n" #name ":\n"
#define END(name) ".size " #name ", . - " #name "\n"
__asm__(
    ".text\n"
    /* A loop's head at +2, room behind: sum of n..1. */
    ".balign 64\n" BEGIN(loop_head) "  xor %eax, %eax\n"
    "1: add %rdi, %rax\n  dec %rdi\n  jnz 1b\n  ret\n" END(loop_head)
    ".balign 16, 0x90\n.byte 0x90, 0x90\n"
    /* The same, and the next function follows at once: its first bytes are ours to keep. */
    ".balign 64\n" BEGIN(packed_loop) "  mov %rdi, %rax\n"
    "1: add $2, %rax\n  dec %rdi\n  jnz 1b\n  ret\n" END(packed_loop)
    BEGIN(behind_it) "  lea 5(%rdi), %rax\n  add $1, %rax\n  ret\n" END(behind_it)
    /* Leaves within five bytes, and other code follows that is reached from below. */
    ".balign 64\n" BEGIN(early_exit) "  jmp 2f\n"
    "1: mov %rdi, %rax\n  ret\n  nop\n  nop\n"
    "2: add $3, %rdi\n  jmp 1b\n" END(early_exit)
    /* Jumps to a calculated label: the slots are 8 bytes. */
    ".balign 64\n" BEGIN(slots) "  and $1, %edi\n  lea 1f(%rip), %rax\n  lea (%rax,%rdi,8), %rax\n"
    "  shl $0, %rax\n  jmp *%rax\n  nop\n"
    "1: mov $10, %eax\n  ret\n  nop\n  nop\n  mov $11, %eax\n  ret\n  nop\n  nop\n" END(slots)
    /* Its neighbour jumps to its second instruction, by a jump of two bytes. */
    ".balign 64\n" BEGIN(neighbour) "  mov %rdi, %rax\n"
    "1: add $1, %rax\n  ret\n" END(neighbour)
    BEGIN(into_neighbour) "  lea 10(%rdi), %rax\n  jmp 1b\n" END(into_neighbour)
    /* A jump would displace the call: with padding in reach it need not. */
    ".balign 64\n" BEGIN(calls_early) "  sub $8, %rsp\n  call behind_it\n  lea 1(%rax), %rax\n"
    "  add $8, %rsp\n  ret\n" END(calls_early)
    /* Without padding it is displaced; and one through a register. */
    ".balign 64\n" BEGIN(calls_packed) "  sub $8, %rsp\n  call behind_it\n  lea 1(%rax), %rax\n"
    "  add $8, %rsp\n  ret\n" END(calls_packed)
    BEGIN(calls_register) "  sub $8, %rsp\n  call *%rsi\n  lea 2(%rax), %rax\n  add $8, %rsp\n"
    "  ret\n" END(calls_register)
    BEGIN(behind_calls) "  lea 9(%rdi), %rax\n  ret\n" END(behind_calls)
    /* One byte, then a loop's head: where a punned jump leads is all given. */
    ".balign 64\n" BEGIN(one_byte) "  push %rbx\n"
    "1: sub $1, %rdi\n  jnz 1b\n  mov $7, %eax\n  pop %rbx\n  ret\n" END(one_byte));

long loop_head(long n), packed_loop(long n), behind_it(long n), early_exit(long n), slots(long n),
    one_byte(long n), behind_calls(long n), neighbour(long n), into_neighbour(long n),
    calls_early(long n), calls_packed(long n), calls_register(long n, long (*callee)(long));

static void check(long got, long want, const char* what) {
  if (got == want) return;
  printf("WRONG %s: %ld, not %ld\n", what, got, want);
  fflush(stdout);
  _exit(1);
}

static void* work(void* unused) {
  for (long i = 1;; ++i) {
    const long n = i % 7 + 1;
    check(loop_head(n), n * (n + 1) / 2, "loop_head");
    check(packed_loop(n), 3 * n, "packed_loop");
    check(behind_it(n), n + 6, "behind_it");
    check(early_exit(n), n + 3, "early_exit");
    check(slots(n), 10 + n % 2, "slots");
    check(one_byte(n), 7, "one_byte");
    check(neighbour(n), n + 1, "neighbour");
    check(into_neighbour(n), n + 11, "into_neighbour");
    check(calls_early(n), n + 7, "calls_early");
    check(calls_packed(n), n + 7, "calls_packed");
    check(behind_calls(n), n + 9, "behind_calls");
    check(calls_register(n, behind_it), n + 8, "calls_register");
    if (i % 4096 == 0) usleep(100);
  }
  return unused;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 2;
  pthread_t thread;
  for (int i = 0; i < threads; ++i) pthread_create(&thread, NULL, work, NULL);
  for (int round = 1;; ++round) {
    printf("round %d\n", round);
    fflush(stdout);
    usleep(10000);
  }
}

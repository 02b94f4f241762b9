// SPDX-License-Identifier: MIT
// What a probe must leave alone: all that a thread can see. Before each call every general and
// vector register, the flags, the x87 stack and both control words get random contents; after it
// they are compared with what a function that nobody probes leaves. Prints `mid +0xN` (the site
// inside keep_mid, where all 128 bytes of the red zone are in use), then `round N`; WRONG what ends
// it with status 1.
//   keep_ret    ends in a ret            keep_tail   ends in a jump to another function
//   keep_mid    has the site within      keep_plain  is for comparison
// All set the flags themselves after their first instruction: at a function's entry flags are free.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct state {
  uint64_t general[16];  // rax rcx rdx rbx rsp rbp rsi rdi r8 .. r15
  uint64_t flags, mxcsr;
  uint8_t x87[128];  // as fnsave leaves it
  uint8_t vectors[32][64];
  uint64_t masks[8];
  uint64_t red_zone[16];
};
// Everything that the assembler text below uses by name.
uint64_t in_general[16], in_flags, in_mxcsr, in_control_word, in_masks[8], in_red_zone[16];
uint8_t in_x87[8][16], in_vectors[32][64];
uint64_t out_general[16], out_flags, out_mxcsr, out_masks[8], out_red_zone[16], frame_kept;
uint8_t out_x87[128], out_vectors[32][64];
uint64_t level;  // 0: SSE, 1: AVX, 2: AVX-512
void (*callee)(void);

void call_filled(void);
void keep_ret(void), keep_tail(void), keep_mid(void), keep_mid_site(void), keep_plain(void);

// clang-format off
__asm__(
    ".text\n"
    ".macro general op\n"
    "  \\op rax, 0\n  \\op rcx, 1\n  \\op rdx, 2\n  \\op rbx, 3\n  \\op rbp, 5\n  \\op rsi, 6\n"
    "  \\op rdi, 7\n  \\op r8, 8\n  \\op r9, 9\n  \\op r10, 10\n  \\op r11, 11\n  \\op r12, 12\n"
    "  \\op r13, 13\n  \\op r14, 14\n  \\op r15, 15\n"
    ".endm\n"
    ".macro fill reg, at\n  mov in_general+8*\\at(%rip), %\\reg\n.endm\n"
    ".macro keep reg, at\n  mov %\\reg, out_general+8*\\at(%rip)\n.endm\n"
    ".macro vectors16 op, kind\n"
    "  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n  \\op \\kind, \\n\n  .endr\n"
    ".endm\n"
    ".macro vectors32 op, kind\n"
    "  vectors16 \\op, \\kind\n"
    "  .irp n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n  \\op \\kind, \\n\n  .endr\n"
    ".endm\n"
    ".macro vfill kind, n\n"
    "  .ifc \\kind,xmm\n  movups in_vectors+64*\\n(%rip), %xmm\\n\n  .endif\n"
    "  .ifc \\kind,ymm\n  vmovups in_vectors+64*\\n(%rip), %ymm\\n\n  .endif\n"
    "  .ifc \\kind,zmm\n  vmovups in_vectors+64*\\n(%rip), %zmm\\n\n  .endif\n"
    ".endm\n"
    ".macro vkeep kind, n\n"
    "  .ifc \\kind,xmm\n  movups %xmm\\n, out_vectors+64*\\n(%rip)\n  .endif\n"
    "  .ifc \\kind,ymm\n  vmovups %ymm\\n, out_vectors+64*\\n(%rip)\n  .endif\n"
    "  .ifc \\kind,zmm\n  vmovups %zmm\\n, out_vectors+64*\\n(%rip)\n  .endif\n"
    ".endm\n"
    ".macro masks op\n"
    "  .irp n, 0,1,2,3,4,5,6,7\n"
    "  .ifc \\op,fill\n  kmovw in_masks+8*\\n(%rip), %k\\n\n  .endif\n"
    "  .ifc \\op,keep\n  kmovw %k\\n, out_masks+8*\\n(%rip)\n  .endif\n"
    "  .endr\n"
    ".endm\n"
    // void call_filled(void): fills everything, calls *callee, keeps everything.
    ".globl call_filled\n.type call_filled, @function\n"
    "call_filled:\n"
    "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
    "  sub $24, %rsp\n  stmxcsr (%rsp)\n"
    "  cmpl $1, level(%rip)\n  jb 1f\n  je 2f\n"
    "  vectors32 vfill, zmm\n  masks fill\n  jmp 3f\n"
    "1:\n  vectors16 vfill, xmm\n  jmp 3f\n"
    "2:\n  vectors16 vfill, ymm\n"
    "3:\n"
    "  fninit\n"
    "  .irp n, 0,1,2,3,4,5,6,7\n  fldt in_x87+16*\\n(%rip)\n  .endr\n"
    "  fldcw in_control_word(%rip)\n  ldmxcsr in_mxcsr(%rip)\n"
    "  mov %rsp, frame_kept(%rip)\n"
    "  general fill\n"
    "  call *callee(%rip)\n"
    "  general keep\n"
    "  pushfq\n  popq out_flags(%rip)\n  cld\n"
    "  mov %rsp, %rax\n  sub frame_kept(%rip), %rax\n  mov %rax, out_general+8*4(%rip)\n"
    "  mov frame_kept(%rip), %rsp\n"
    "  stmxcsr out_mxcsr(%rip)\n  fnsave out_x87(%rip)\n"
    "  cmpl $1, level(%rip)\n  jb 1f\n  je 2f\n"
    "  vectors32 vkeep, zmm\n  masks keep\n  jmp 3f\n"
    "1:\n  vectors16 vkeep, xmm\n  jmp 3f\n"
    "2:\n  vectors16 vkeep, ymm\n"
    "3:\n"
    "  cmpl $1, level(%rip)\n  jb 4f\n  vzeroupper\n4:\n"
    "  ldmxcsr (%rsp)\n  add $24, %rsp\n"
    "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n  ret\n"
    ".size call_filled, . - call_filled\n"
    ".macro function name\n"
    "  .balign 32\n  .globl \\name\n  .type \\name, @function\n\\name:\n"
    "  .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n  pushq in_flags(%rip)\n  popfq\n"
    ".endm\n"
    ".macro pad\n  .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n.endm\n"
    "function keep_plain\n  pad\n  ret\n.size keep_plain, . - keep_plain\n"
    "function keep_ret\n  pad\n  ret\n.size keep_ret, . - keep_ret\n"
    "function keep_tail\n  pad\n  jmp keep_plain\n.size keep_tail, . - keep_tail\n"
    "function keep_mid\n"
    "  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  mov in_red_zone+8*\\n(%rip), %rax\n  mov %rax, -8*(\\n+1)(%rsp)\n"
    "  .endr\n"
    "  mov in_general(%rip), %rax\n"
    ".globl keep_mid_site\nkeep_mid_site:\n  pad\n"
    "  mov %rax, out_general(%rip)\n"
    "  .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "  mov -8*(\\n+1)(%rsp), %rax\n  mov %rax, out_red_zone+8*\\n(%rip)\n"
    "  .endr\n"
    "  mov out_general(%rip), %rax\n  ret\n"
    ".size keep_mid, . - keep_mid\n");
// clang-format on

static uint64_t random_word(void) {
  static uint64_t x = 0x9e3779b97f4a7c15u;
  x ^= x << 13, x ^= x >> 7, x ^= x << 17;
  return x;
}

static void random_fill(void* to, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t word = random_word();
    memcpy((uint8_t*)to + i, &word, 8);
  }
}

static void fill(int may_set_direction) {
  random_fill(in_general, sizeof in_general);
  random_fill(in_vectors, sizeof in_vectors);
  random_fill(in_masks, sizeof in_masks);
  random_fill(in_red_zone, sizeof in_red_zone);
  for (int i = 0; i < 8; i++) {  // any normal number
    random_fill(in_x87[i], 8);
    in_x87[i][7] |= 0x80;
    in_x87[i][8] = (uint8_t)random_word(), in_x87[i][9] = 0x3f;
  }
  in_flags = 0x202 | (random_word() & 0x8d5);  // OF SF ZF AF PF CF
  if (may_set_direction && random_word() % 2) in_flags |= 0x400;
  in_mxcsr = 0x1f80 | (random_word() & 0xe040);        // rounding, flush, denormals
  in_control_word = 0x37f & ~(random_word() & 0x300);  // precision
}

static void take(struct state* state, void (*function)(void)) {
  memset(out_red_zone, 0, sizeof out_red_zone);
  callee = function;
  call_filled();
  memcpy(state->general, out_general, sizeof out_general);
  state->flags = out_flags;
  state->mxcsr = out_mxcsr;
  memcpy(state->x87, out_x87, sizeof out_x87);
  memcpy(state->vectors, out_vectors, sizeof out_vectors);
  memcpy(state->masks, out_masks, sizeof out_masks);
  memcpy(state->red_zone, out_red_zone, sizeof out_red_zone);
}

static void same(const char* function, const char* what, const void* got, const void* want,
                 size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    if (((const uint8_t*)got)[i] == ((const uint8_t*)want)[i]) continue;
    printf("WRONG %s: %s, byte %zu: %02x, want %02x\n", function, what, i, ((const uint8_t*)got)[i],
           ((const uint8_t*)want)[i]);
    exit(1);
  }
}

static void compare(const char* name, const struct state* got, const struct state* want) {
  same(name, "general registers", got->general, want->general, sizeof got->general);
  same(name, "flags", &got->flags, &want->flags, sizeof got->flags);
  same(name, "mxcsr", &got->mxcsr, &want->mxcsr, sizeof got->mxcsr);
  // Not the addresses of the last instruction between: the processor itself may forget those.
  same(name, "x87 words", got->x87, want->x87, 12);
  same(name, "x87 stack", got->x87 + 28, want->x87 + 28, 80);
  same(name, "vector registers", got->vectors, want->vectors, sizeof got->vectors);
  same(name, "mask registers", got->masks, want->masks, sizeof got->masks);
}

static void round_of(void) {
  static struct state plain, probed;
  fill(0);
  take(&plain, keep_plain);
  uint64_t expected[16];
  memcpy(expected, in_general, sizeof expected);
  expected[4] = 0;  // the difference of the stack pointer
  same("keep_plain", "general registers", plain.general, expected, sizeof expected);
  take(&probed, keep_ret);
  compare("keep_ret", &probed, &plain);
  take(&probed, keep_tail);
  compare("keep_tail", &probed, &plain);
  fill(1);
  take(&plain, keep_plain);
  take(&probed, keep_mid);
  compare("keep_mid", &probed, &plain);
  same("keep_mid", "red zone", probed.red_zone, in_red_zone, sizeof in_red_zone);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  level = __builtin_cpu_supports("avx512f") ? 2 : __builtin_cpu_supports("avx") ? 1 : 0;
  const uintptr_t offset = (uintptr_t)keep_mid_site - (uintptr_t)keep_mid;
  printf("level %lu\nmid +0x%lx\n", level, (unsigned long)offset);
  for (long round = 1;; round++) {
    for (int i = 0; i < 100; i++) round_of();
    printf("round %ld\n", round);
    usleep(2000);
  }
}

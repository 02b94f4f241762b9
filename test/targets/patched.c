/* SPDX-License-Identifier: MIT */
/* A program that patches itself as instrumentation of others does (Frida, livepatch tools): a jump
 * over the first bytes of `victim` to a trampoline that counts, executes what it displaced, be it
 * somebody's jump, and goes on. Commands on stdin: `patch FORM`, FORM one of jmp push mov slot;
 * `revert` writes back what was there. Answers `did COMMAND passes N`. Prints `round N`; a wrong
 * result ends it with WRONG. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PROLOGUE = 16, PAGE = 4096 };

/* Sixteen bytes that can be moved, then the rest. */
__asm__(
    ".text\n.balign 64\n.globl victim\n.type victim, @function\nvictim:\n"
    "  push %rbp\n  mov %rsp, %rbp\n  lea (%rdi,%rdi), %rax\n  add $1, %rax\n  mov %rax, %rdx\n  "
    "nop\n"
    "  mov %rdx, %rax\n  pop %rbp\n  ret\n"
    ".size victim, . - victim\n.balign 64\n");
long victim(long n);

static volatile uint64_t* passes;
static uint8_t saved[PROLOGUE];
static size_t patched_bytes;

static void put_u32(uint8_t** at, uint64_t value) {
  const uint32_t low = (uint32_t)value;
  memcpy(*at, &low, 4);
  *at += 4;
}
static void put_u64(uint8_t** at, uint64_t value) {
  memcpy(*at, &value, 8);
  *at += 8;
}
/* jmp [rip+0], and where */
static void put_far_jump(uint8_t** at, uint64_t to) {
  memcpy(*at, "\xff\x25\0\0\0\0", 6);
  *at += 6;
  put_u64(at, to);
}

/* A page of code and one of data: near the function, or below 2 GiB for `push imm32`. */
static uint8_t* new_pages(int is_near) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (!is_near) return mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, flags | MAP_32BIT, -1, 0);
  for (uint64_t at = ((uint64_t)victim & -(uint64_t)PAGE) - (64 << 20);; at -= 1 << 20) {
    uint8_t* page =
        mmap((void*)at, 2 * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0);
    if (page != MAP_FAILED) return page;
  }
}

static void write_text(const uint8_t* bytes, size_t count) {
  void* page = (void*)((uint64_t)victim & -(uint64_t)PAGE);
  mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
  memcpy((void*)victim, bytes, count);
  mprotect(page, PAGE, PROT_READ | PROT_EXEC);
}

static void patch(const char* form) {
  const int is_jmp = strcmp(form, "jmp") == 0;
  uint8_t* page = new_pages(is_jmp);
  passes = (uint64_t*)(page + PAGE);
  memcpy(saved, (void*)victim, PROLOGUE);
  uint8_t* at = page;
  memcpy(at, "\x48\xff\x05", 3); /* inc [rip + ..] */
  at += 3;
  put_u32(&at, (uint64_t)passes - (uint64_t)at - 4);
  if (saved[0] == 0xe9) {
    int32_t displacement;
    memcpy(&displacement, saved + 1, 4);
    put_far_jump(&at, (uint64_t)victim + 5 + (uint64_t)(int64_t)displacement);
  } else {
    memcpy(at, saved, PROLOGUE);
    at += PROLOGUE;
    put_far_jump(&at, (uint64_t)victim + PROLOGUE);
  }
  uint8_t bytes[PROLOGUE];
  uint8_t* to = bytes;
  if (is_jmp) {
    *to++ = 0xe9;
    put_u32(&to, (uint64_t)page - (uint64_t)victim - 5);
  } else if (strcmp(form, "push") == 0) {
    *to++ = 0x68;
    put_u32(&to, (uint64_t)page);
    *to++ = 0xc3;
  } else if (strcmp(form, "mov") == 0) {
    memcpy(to, "\x48\xb8", 2);
    to += 2;
    put_u64(&to, (uint64_t)page);
    memcpy(to, "\xff\xe0", 2);
    to += 2;
  } else {
    put_far_jump(&to, (uint64_t)page);
  }
  patched_bytes = (size_t)(to - bytes);
  mprotect(page, PAGE, PROT_READ | PROT_EXEC);
  write_text(bytes, patched_bytes);
}

static void revert(void) {
  write_text(saved, patched_bytes);
  munmap((uint8_t*)passes - PAGE, 2 * PAGE);
}

static void obey(char* line) {
  line[strcspn(line, "\n")] = 0;
  if (strncmp(line, "patch ", 6) == 0) patch(line + 6);
  const uint64_t passed = *passes;
  if (strcmp(line, "revert") == 0) revert();
  printf("did %s passes %lu\n", line, passed);
  fflush(stdout);
}

int main(void) {
  fcntl(0, F_SETFL, O_NONBLOCK);
  for (long round = 1;; ++round) {
    char line[64];
    const ssize_t got = read(0, line, sizeof line - 1);
    if (got > 0) {
      line[got] = 0;
      obey(line);
    }
    for (long n = 0; n < 100; ++n) {
      if (victim(n) == 2 * n + 1) continue;
      printf("WRONG %ld\n", n);
      return 1;
    }
    usleep(1000);
    if (round % 20 != 0) continue;
    printf("round %ld\n", round);
    fflush(stdout);
  }
}

/* SPDX-License-Identifier: MIT */
/* No global state: any number of threads run the programs of several machines, compiled and
 * interpreted, while others are made, loaded, compiled and destroyed. */
#include <bpftime/vm.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { kThreads = 8, kRounds = 20000, kMachines = 4, kRebuilds = 200 };

static int count, failures;

static void ok(int passed, const char* name) {
  printf("%sok %d - %s\n", passed ? "" : "not ", ++count, name);
  failures += !passed;
}

static uint64_t mix(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  (void)b, (void)c, (void)d, (void)e;
  return a * 31;
}

/* *(u64 *)(r10 - 8) = r1; r1 = *(u64 *)(r1 + 0); *(u64 *)(r10 - 16) = r1; call 7;
 * r1 = *(u64 *)(r10 - 16); r0 += r1; r0 += KEY; r2 = *(u64 *)(r10 - 8); *(u64 *)(r2 + 8) = r0;
 * exit: stack, helper and context, each of the calling thread alone */
static void load(bpftime_vm* vm, uint32_t key, int compiled) {
  const uint64_t code[] = {
      0xfff81a7b, 0x1179,  0xfff01a7b, 0x700000085, 0xfff0a179, 0x100f, 0x7 | (uint64_t)key << 32,
      0xfff8a279, 0x8027b, 0x95};
  bpftime_vm_register(vm, 7, mix, NULL);
  if (bpftime_vm_load(vm, code, sizeof code, BPFTIME_VM_UNVERIFIED) != 0)
    printf("# %s\n", bpftime_vm_error(vm));
  if (compiled && bpftime_vm_compile(vm, 0) != 0) printf("# %s\n", bpftime_vm_error(vm));
}

static bpftime_vm* machines[kMachines];

static int run_right(const bpftime_vm* vm, uint64_t input, uint64_t key) {
  uint64_t ctx[2] = {input, 0}, result = 0;
  const uint64_t expected = input * 32 + key;
  return bpftime_vm_exec(vm, ctx, sizeof ctx, &result) == 0 && result == expected &&
         ctx[1] == expected;
}

static void* run_all(void* seed) {
  uintptr_t wrong = 0;
  for (uint64_t i = 0; i < kRounds; i++) {
    for (uint64_t m = 0; m < kMachines; m++) {
      wrong += !run_right(machines[m], (uintptr_t)seed * kRounds + i, m + 1);
    }
  }
  return (void*)wrong;
}

static void* rebuild(void* seed) {
  uintptr_t wrong = 0;
  for (uint32_t i = 0; i < kRebuilds; i++) {
    bpftime_vm* vm = bpftime_vm_create(NULL);
    load(vm, i, i % 2);
    wrong += !run_right(vm, (uintptr_t)seed, i);
    bpftime_vm_destroy(vm);
  }
  return (void*)wrong;
}

int main(void) {
  for (uint32_t m = 0; m < kMachines; m++) {
    machines[m] = bpftime_vm_create(NULL);
    load(machines[m], m + 1, m % 2 == 0);
  }
  ok(bpftime_vm_function(machines[0]) != NULL && bpftime_vm_function(machines[1]) == NULL,
     "compiled and interpreted machines");
  pthread_t threads[kThreads + 2];
  for (uintptr_t i = 0; i < kThreads + 2; i++) {
    pthread_create(&threads[i], NULL, i < kThreads ? run_all : rebuild, (void*)(i + 1));
  }
  uintptr_t wrong[2] = {0, 0};
  for (int i = 0; i < kThreads + 2; i++) {
    void* found = NULL;
    pthread_join(threads[i], &found);
    wrong[i >= kThreads] += (uintptr_t)found;
  }
  ok(wrong[0] == 0, "8 threads run 4 machines at once, and each gets its own results");
  ok(wrong[1] == 0, "2 threads make, compile and destroy others meanwhile");
  for (int m = 0; m < kMachines; m++) bpftime_vm_destroy(machines[m]);
  printf("1..%d\n", count);
  return failures != 0;
}

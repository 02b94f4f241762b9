/* SPDX-License-Identifier: MIT */
/* The C interface, used from C. */
#include <bpftime/vm.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int count, failures;

static void ok(int passed, const char* name) {
  printf("%sok %d - %s\n", passed ? "" : "not ", ++count, name);
  failures += !passed;
}

static uint64_t add(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  return a + b + c + d + e;
}

/* r1 = *(u64 *)(r1 + 0); r2 = 2; r3 = r4 = r5 = 0; call 8; exit */
static const uint64_t kCallHelper[] = {0x1179, 0x2000002b7, 0x3b7, 0x4b7, 0x5b7, 0x800000085, 0x95};
/* *(u32 *)(r10 - 4) = 3; r2 = r10; r2 += -4; r1 = map(5) ll; call 1; if r0 == 0 goto +1;
 * r0 = *(u32 *)(r0 + 0); exit */
static const uint64_t kLookup[] = {
    0x3fffc0a62, 0xa2bf, 0xfffffffc00000207, 0x500001118, 0, 0x100000085, 0x10015, 0x61, 0x95};
/* r1 = map_value(5, 8) ll; r0 = *(u32 *)(r1 + 0); exit */
static const uint64_t kValue[] = {0x500002118, 0x800000000, 0x1061, 0x95};

static uint64_t never(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  (void)a, (void)b, (void)c, (void)d, (void)e;
  return 0;
}

int main(void) {
  bpftime_vm* vm = bpftime_vm_create(NULL);
  uint64_t ctx = 40, result = 0;
  size_t bytes = 1;
  ok(vm != NULL, "create");
  ok(bpftime_vm_exec(vm, &ctx, 8, &result) == -ENOENT, "nothing to run yet");
  ok(bpftime_vm_compile(vm, 0) == -ENOENT, "nothing to compile yet");
  const uint32_t unverified = BPFTIME_VM_UNVERIFIED;
  ok(bpftime_vm_refused(vm) == NULL, "nothing was refused");
  ok(bpftime_vm_verify(vm, kCallHelper, sizeof kCallHelper, unverified) == -EINVAL &&
         bpftime_vm_refused(vm)->insn_index == 5 && bpftime_vm_refused(vm)->opcode == 0x85,
     "unknown helper: instruction and opcode");
  ok(bpftime_vm_load(vm, kCallHelper, sizeof kCallHelper, unverified) == -EINVAL,
     "unknown helper: no load");
  ok(strcmp(bpftime_vm_error(vm), "instruction 5: no helper has this id") == 0,
     "unknown helper: sentence");
  ok(bpftime_vm_register(vm, BPFTIME_VM_HELPERS_MAX, add, NULL) == -EINVAL, "helper id too large");
  ok(bpftime_vm_register(vm, 8, add, NULL) == 0, "register a helper");
  ok(bpftime_vm_load(vm, kCallHelper, sizeof kCallHelper, unverified) == 0, "load");
  ok(bpftime_vm_load(vm, kCallHelper, 9, unverified) == -EINVAL, "half an instruction");
  ok(bpftime_vm_function(vm) == NULL && bpftime_vm_code(vm, &bytes) == NULL && bytes == 0,
     "not compiled yet");
  ok(bpftime_vm_exec(vm, &ctx, 8, &result) == 0 && result == 42, "interpreted");
  ok(bpftime_vm_compile(vm, 0) == 0, "compile");
  result = 0;
  ok(bpftime_vm_exec(vm, &ctx, 8, &result) == 0 && result == 42, "compiled");
  ok(bpftime_vm_function(vm)(&ctx, 8) == 42, "called as a function");
  ok(bpftime_vm_code(vm, &bytes) != NULL && bytes > 8, "machine code");

  char text[256];
  const size_t length = bpftime_vm_disasm(vm, text, sizeof text);
  ok(length == strlen(text) && strstr(text, "5: call 8\n") != NULL, "disassembly");
  ok(bpftime_vm_disasm(vm, text, 4) == length && strcmp(text, "0: ") == 0, "disassembly cut short");

  uint32_t values[4] = {10, 11, 12, 13};
  struct bpftime_vm_map map = {.handle = &map};
  ok(bpftime_vm_register(vm, 1, never, NULL) == 0, "register a lookup");
  ok(bpftime_vm_load(vm, kLookup, sizeof kLookup, unverified) == -ENOENT, "unknown map");
  ok(bpftime_vm_exec(vm, &ctx, 8, &result) == 0 && result == 42, "former program is still there");
  ok(bpftime_vm_register_map(vm, 5, &(struct bpftime_vm_map){0}) == -EINVAL, "map without handle");
  ok(bpftime_vm_register_map(vm, 5, &map) == 0, "register a map");
  ok(bpftime_vm_load(vm, kLookup, sizeof kLookup, unverified) == 0, "load a lookup");
  ok(bpftime_vm_compile(vm, 0) == 0 && bpftime_vm_exec(vm, &ctx, 8, &result) == 0 && result == 0,
     "lookup by helper");
  map.values = values;
  map.array_entries = 4;
  map.value_stride = 4;
  ok(bpftime_vm_register_map(vm, 5, &map) == -EBUSY, "a map that is used stays what it is");
  ok(bpftime_vm_load(vm, kCallHelper, sizeof kCallHelper, unverified) == 0 &&
         bpftime_vm_register_map(vm, 5, &map) == 0 &&
         bpftime_vm_load(vm, kLookup, sizeof kLookup, unverified) == 0 &&
         bpftime_vm_compile(vm, 0) == 0 && bpftime_vm_exec(vm, &ctx, 8, &result) == 0 &&
         result == 13,
     "lookup inline");
  ok(bpftime_vm_load(vm, kValue, sizeof kValue, unverified) == 0 &&
         bpftime_vm_compile(vm, 0) == 0 && bpftime_vm_exec(vm, &ctx, 8, &result) == 0 &&
         result == 12,
     "address of a value");
  bpftime_vm_destroy(vm);
  bpftime_vm_destroy(NULL);
  printf("1..%d\n", count);
  return failures != 0;
}

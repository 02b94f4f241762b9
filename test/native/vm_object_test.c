/* SPDX-License-Identifier: MIT */
/* Programs of object files through the C interface: test/targets/bpf/library.bpf.c. */
#include <bpftime/vm.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int count, failures;

static int ok(int passed, const char* name) {
  printf("%sok %d - %s\n", passed ? "" : "not ", ++count, name);
  failures += !passed;
  return passed;
}

struct order {
  uint32_t price, count;
};
static const struct bpftime_vm_field kFields[] = {{0, 4, 0}, {4, 4, 0}};
static const struct bpftime_vm_context kOrder = {"struct order", 8, 2, kFields};

static uint64_t discount_of(uint64_t total, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  (void)b, (void)c, (void)d, (void)e;
  return total / 10;
}
static const struct bpftime_vm_contract kDiscountOf = {"discount_of", {BPFTIME_VM_ARG_ANY}, 0, 0};

static void* counts_lookup(void* handle, const void* key) {
  uint32_t index;
  memcpy(&index, key, sizeof index);
  return index < 4 ? (uint64_t*)handle + index : NULL;
}
static const struct bpftime_vm_map_ops kCounts = {counts_lookup, NULL, NULL};

static char object[1 << 20];
static size_t object_bytes;

static void loads(bpftime_vm* vm, const char* program, int want, const char* text,
                  const char* name) {
  const int got = bpftime_vm_load_object(vm, object, object_bytes, program, 0);
  const int passed = got == want && (want == 0 || strstr(bpftime_vm_error(vm), text) != NULL);
  if (!ok(passed, name)) printf("# %d %s\n", got, bpftime_vm_error(vm));
}

static uint64_t run(bpftime_vm* vm, uint32_t price, uint32_t amount) {
  struct order order = {price, amount};
  uint64_t result = (uint64_t)-1;
  if (bpftime_vm_exec(vm, &order, sizeof order, &result) != 0) printf("# does not run\n");
  return result;
}

static void damaged(bpftime_vm* vm) {
  int accepted = 0;
  char* copy = malloc(object_bytes);
  unsigned state = 1;
  for (int i = 0; i < 20000; i++) {
    memcpy(copy, object, object_bytes);
    for (int n = 0; n < 4; n++) {
      state = state * 1664525 + 1013904223;
      copy[(state >> 8) % object_bytes] = (char)(state >> 3);
    }
    const size_t bytes = i % 3 == 0 ? (state >> 5) % object_bytes : object_bytes;
    accepted += bpftime_vm_load_object(vm, copy, bytes, i % 2 ? "total" : "count", 0) == 0;
  }
  printf("# %d of 20000 accepted\n", accepted);
  ok(accepted > 0 && accepted < 20000, "damaged objects are refused or harmless");
  free(copy);
}

int main(void) {
  FILE* file = fopen(BPF_OBJECT_DIR "/library.bpf.o", "rb");
  object_bytes = file != NULL ? fread(object, 1, sizeof object, file) : 0;
  uint64_t counts[4] = {0, 10, 20, 30};
  const struct bpftime_vm_map map = {
      .handle = counts, .key_bytes = 4, .value_bytes = 8, .name = "counts", .ops = &kCounts};
  bpftime_vm* vm = bpftime_vm_create(NULL);
  bpftime_vm_set_context(vm, &kOrder);
  loads(vm, "total", -ENOEXEC, "discount_of", "a helper that is not registered");
  loads(vm, "count", -ENOEXEC, "counts", "a map that is not");
  bpftime_vm_register(vm, 100, discount_of, &kDiscountOf);
  bpftime_vm_register_map(vm, 3, &map);
  loads(vm, "total", 0, "", "a program with a function, data and a helper by name");
  ok(run(vm, 10, 7) == 75, "adds what .data holds");
  ok(run(vm, 25, 80) == 1800, "and compares with .rodata");
  ok(bpftime_vm_compile(vm, 0) == 0 && run(vm, 25, 80) == 1800 && run(vm, 10, 7) == 75,
     "compiled, too");
  loads(vm, "rule/count", 0, "", "a program by its section, with a map by name");
  ok(run(vm, 2, 0) == 21 && run(vm, 2, 0) == 22 && run(vm, 9, 0) == 0, "counts in the map");
  loads(vm, "careless", -EACCES, "library.bpf.c:", "a refusal has the line of the source");
  ok(strstr(bpftime_vm_refused(vm)->source, "careless */") != NULL, "with its text");
  ok(run(vm, 3, 0) == 31, "the former program stays");
  loads(vm, "total", 0, "", "and is replaced");
  loads(vm, "nobody", -ENOEXEC, "nobody", "no such program");
  loads(vm, NULL, 0, "", "the first one, when none is named");
  damaged(vm);
  bpftime_vm_destroy(vm);
  printf("1..%d\n", count);
  return failures != 0;
}

/* SPDX-License-Identifier: MIT */
/* What embedders bring: contexts, helpers with contracts, maps of their own kind, limits, memory;
 * and what the verifier says to programs that do not keep to it. */
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

#define INSN(op, dst, src, off, imm)                               \
  ((uint64_t)(op) | (uint64_t)(dst) << 8 | (uint64_t)(src) << 12 | \
   (uint64_t)(uint16_t)(off) << 16 | (uint64_t)(uint32_t)(imm) << 32)
#define LDX64(dst, src, off) INSN(0x79, dst, src, off, 0)
#define LDX32(dst, src, off) INSN(0x61, dst, src, off, 0)
#define STX64(dst, src, off) INSN(0x7b, dst, src, off, 0)
#define ST64(dst, off, imm) INSN(0x7a, dst, 0, off, imm)
#define ST32(dst, off, imm) INSN(0x62, dst, 0, off, imm)
#define MOV(dst, src) INSN(0xbf, dst, src, 0, 0)
#define MOVI(dst, imm) INSN(0xb7, dst, 0, 0, imm)
#define ADDI(dst, imm) INSN(0x07, dst, 0, 0, imm)
#define JEQI(dst, imm, off) INSN(0x15, dst, 0, off, imm)
#define JNEI(dst, imm, off) INSN(0x55, dst, 0, off, imm)
#define CALL(id) INSN(0x85, 0, 0, 0, id)
#define CALL_LOCAL(off) INSN(0x85, 0, 1, 0, off)
#define MAP(dst, id) INSN(0x18, dst, 1, 0, id), 0
#define EXIT INSN(0x95, 0, 0, 0, 0)
#define LOAD(vm, ...) \
  bpftime_vm_load(vm, (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}), 0)
#define LOAD_UNVERIFIED(vm, ...)                                                                \
  bpftime_vm_load(vm, (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}), \
                  BPFTIME_VM_UNVERIFIED)

/* Whether the last load was refused at `insn` with a sentence that has `text`. */
static void refused(bpftime_vm* vm, int result, uint32_t insn, const char* text, const char* name) {
  const struct bpftime_vm_refusal* refusal = bpftime_vm_refused(vm);
  const int yes = result < 0 && refusal != NULL && refusal->insn_index == insn &&
                  strstr(refusal->reason, text) != NULL &&
                  strstr(bpftime_vm_error(vm), refusal->reason) != NULL;
  if (!ok(yes, name)) printf("# %d %s\n", result, bpftime_vm_error(vm));
}

static void accepted(bpftime_vm* vm, int result, const char* name) {
  if (!ok(result == 0 && bpftime_vm_refused(vm) == NULL, name)) {
    printf("# %d %s\n", result, bpftime_vm_error(vm));
  }
}

/* The result of the loaded program, interpreted and compiled in both ways; -1: they differ. */
static uint64_t result_of(bpftime_vm* vm, void* ctx, size_t bytes) {
  uint64_t results[3] = {0, 0, 0};
  int faults = bpftime_vm_exec(vm, ctx, bytes, &results[0]) != 0;
  faults += bpftime_vm_compile(vm, 0) != 0 || bpftime_vm_exec(vm, ctx, bytes, &results[1]) != 0;
  faults += bpftime_vm_compile(vm, BPFTIME_VM_BUDGETED) != 0 ||
            bpftime_vm_exec(vm, ctx, bytes, &results[2]) != 0;
  if (faults != 0 || results[0] != results[1] || results[1] != results[2]) {
    printf("# %d faults, %llu %llu %llu: %s\n", faults, (unsigned long long)results[0],
           (unsigned long long)results[1], (unsigned long long)results[2], bpftime_vm_error(vm));
    return (uint64_t)-1;
  }
  return results[0];
}

struct order {
  uint32_t price, count;
  uint64_t customer;
  uint64_t verdict;
};
static const struct bpftime_vm_field kFields[] = {{0, 8, 0}, {16, 8, 1}};
static const struct bpftime_vm_context kOrder = {"struct order", sizeof(struct order), 2, kFields};

static void contexts(void) {
  bpftime_vm* vm = bpftime_vm_create(NULL);
  struct order order = {6, 7, 8, 9};
  uint64_t result = 0;
  refused(vm, LOAD(vm, LDX64(0, 1, 0), EXIT), 0, "context", "no context: it is not read");
  accepted(vm, LOAD(vm, MOVI(0, 3), EXIT), "nor need it be");
  ok(bpftime_vm_exec(vm, NULL, 0, &result) == 0 && result == 3, "and it runs without one");
  ok(bpftime_vm_set_context(vm, &kOrder) == 0, "a context");
  accepted(vm, LOAD(vm, LDX32(0, 1, 4), EXIT), "a field is read");
  ok(result_of(vm, &order, sizeof order) == 7, "to its value");
  ok(bpftime_vm_exec(vm, &order, sizeof order - 1, &result) == -EINVAL, "a context that is short");
  refused(vm, LOAD(vm, LDX64(0, 1, 8), EXIT), 0, "struct order", "what is no field is not read");
  refused(vm, LOAD(vm, LDX64(0, 1, 24), EXIT), 0, "struct order", "nor what is behind it");
  refused(vm, LOAD(vm, MOVI(0, 0), STX64(1, 0, 0), EXIT), 1, "", "a field is not written");
  accepted(vm, LOAD(vm, MOVI(0, 1), STX64(1, 0, 16), EXIT), "one that is writable is");
  ok(result_of(vm, &order, sizeof order) == 1 && order.verdict == 1, "and holds the value");
  refused(vm, LOAD(vm, MOV(0, 2), EXIT), 0, "", "r2 was not promised");
  const struct bpftime_vm_field outside = {20, 8, 0};
  const struct bpftime_vm_context wrong = {"x", 24, 1, &outside};
  ok(bpftime_vm_set_context(vm, &wrong) == -EINVAL, "a field outside of its context");
  refused(vm, LOAD(vm, INSN(0x05, 0, 0, -1, 0)), 0, "", "a program without an end");
  ok(strlen(bpftime_vm_refused(vm)->path) > 0, "and how it got there");
  accepted(vm, LOAD_UNVERIFIED(vm, LDX64(0, 1, 8), EXIT), "unverified, it may");
  ok(result_of(vm, &order, 4) == 8, "and nobody looks at the size");
  bpftime_vm_destroy(vm);
}

static uint64_t sum(uint64_t data, uint64_t bytes, uint64_t seed, uint64_t d, uint64_t e) {
  (void)d, (void)e;
  const uint8_t* at = (const uint8_t*)(uintptr_t)data;
  for (uint64_t i = 0; i < bytes; i++) seed += at[i];
  return seed;
}

static void helpers(void) {
  bpftime_vm* vm = bpftime_vm_create(NULL);
  struct bpftime_vm_contract contract = {
      "sum", {BPFTIME_VM_ARG_READ, BPFTIME_VM_ARG_SIZE, BPFTIME_VM_ARG_ANY}, 0, 0};
  ok(bpftime_vm_register(vm, 40, sum, NULL) == 0, "a helper without contract");
  refused(vm, LOAD(vm, MOVI(1, 0), CALL(40), EXIT), 1, "not known", "is not for verified programs");
  accepted(vm, LOAD_UNVERIFIED(vm, MOVI(1, 0), MOVI(2, 0), MOVI(3, 0), CALL(40), EXIT),
           "but for others");
  ok(bpftime_vm_register(vm, 40, sum, &contract) == 0, "with its contract");
  accepted(
      vm,
      LOAD(vm, ST64(10, -8, 5), MOV(1, 10), ADDI(1, -8), MOVI(2, 8), MOVI(3, 2), CALL(40), EXIT),
      "it is called as it says");
  ok(result_of(vm, NULL, 0) == 7, "with the memory and the numbers");
  refused(vm, LOAD(vm, MOV(1, 10), ADDI(1, -8), MOVI(2, 8), MOVI(3, 2), CALL(40), EXIT), 4, "",
          "memory that was not written");
  refused(
      vm,
      LOAD(vm, ST64(10, -8, 5), MOV(1, 10), ADDI(1, -8), MOVI(2, 9), MOVI(3, 2), CALL(40), EXIT), 5,
      "sum reads 9 bytes", "too much of it, and the helper is called by its name");
  refused(vm, LOAD(vm, MOVI(1, 64), MOVI(2, 8), MOVI(3, 2), CALL(40), EXIT), 3, "sum",
          "a number for memory");
  refused(vm, LOAD(vm, ST64(10, -8, 5), MOV(1, 10), ADDI(1, -8), MOVI(2, 8), CALL(40), EXIT), 4, "",
          "an argument that was not set");
  contract.arguments[1] = BPFTIME_VM_ARG_ANY;
  ok(bpftime_vm_register(vm, 41, sum, &contract) == -EINVAL, "memory without size");
  contract.arguments[0] = BPFTIME_VM_ARG_NONE;
  ok(bpftime_vm_register(vm, 41, sum, &contract) == -EINVAL, "a gap among the arguments");
  contract.arguments[0] = 200;
  ok(bpftime_vm_register(vm, 41, sum, &contract) == -EINVAL, "no such kind of argument");
  bpftime_vm_destroy(vm);
}

/* A kind of map: eight values, found by the low three bits of an 8-byte key. */
struct eight {
  uint64_t values[8];
  int removed;
};
static void* eight_lookup(void* handle, const void* key) {
  struct eight* eight = handle;
  uint64_t value;
  memcpy(&value, key, sizeof value);
  return value >= 100 ? NULL : &eight->values[value & 7];
}
static int64_t eight_update(void* handle, const void* key, const void* value, uint64_t flags) {
  uint64_t* place = eight_lookup(handle, key);
  if (place == NULL || flags > 2) return -EINVAL;
  memcpy(place, value, sizeof *place);
  return 0;
}
static int64_t eight_remove(void* handle, const void* key) {
  (void)key;
  return ((struct eight*)handle)->removed++;
}
static const struct bpftime_vm_map_ops kEight = {eight_lookup, eight_update, eight_remove};

#define KEY(value) ST64(10, -8, value), MOV(2, 10), ADDI(2, -8)

static void maps(void) {
  bpftime_vm* vm = bpftime_vm_create(NULL);
  struct eight eight = {{1, 2, 3, 4, 5, 6, 7, 8}, 0};
  uint64_t array[4] = {10, 20, 30, 40};
  const struct bpftime_vm_map own = {
      .handle = &eight, .key_bytes = 8, .value_bytes = 8, .name = "eight", .ops = &kEight};
  const struct bpftime_vm_map flat = {.handle = array,
                                      .values = array,
                                      .array_entries = 4,
                                      .value_stride = 8,
                                      .value_bytes = 8,
                                      .is_read_only = 1,
                                      .name = "flat"};
  ok(bpftime_vm_register_map(vm, 1, &own) == 0 && bpftime_vm_register_map(vm, 2, &flat) == 0,
     "maps");
  accepted(vm, LOAD(vm, KEY(10), MAP(1, 1), CALL(1), JEQI(0, 0, 1), LDX64(0, 0, 0), EXIT),
           "a lookup in a map of one's own kind");
  ok(result_of(vm, NULL, 0) == 3, "finds the value");
  refused(vm, LOAD(vm, KEY(10), MAP(1, 1), CALL(1), LDX64(0, 0, 0), EXIT), 6, "null",
          "which may be null");
  refused(vm, LOAD(vm, KEY(10), MAP(1, 1), CALL(1), JEQI(0, 0, 1), LDX64(0, 0, 8), EXIT), 7,
          "eight", "and has its size");
  refused(vm,
          LOAD(vm, ST32(10, -4, 1), MOV(2, 10), ADDI(2, -4), MAP(1, 1), CALL(1), MOVI(0, 0), EXIT),
          5, "", "keys have theirs");
  accepted(vm,
           LOAD(vm, KEY(3), ST64(10, -16, 99), MOV(3, 10), ADDI(3, -16), MOVI(4, 0), MAP(1, 1),
                CALL(2), EXIT),
           "an update");
  ok(result_of(vm, NULL, 0) == 0 && eight.values[3] == 99, "changes the value");
  accepted(vm, LOAD(vm, KEY(3), MAP(1, 1), CALL(3), MOVI(0, 5), EXIT), "a deletion");
  ok(result_of(vm, NULL, 0) == 5 && eight.removed == 3, "is asked for");
  accepted(vm,
           LOAD(vm, ST32(10, -4, 2), MOV(2, 10), ADDI(2, -4), MAP(1, 2), CALL(1), JEQI(0, 0, 1),
                LDX64(0, 0, 0), EXIT),
           "a lookup in an array");
  ok(result_of(vm, NULL, 0) == 30, "finds its value");
  refused(vm,
          LOAD(vm, ST32(10, -4, 2), MOV(2, 10), ADDI(2, -4), MAP(1, 2), CALL(1), JEQI(0, 0, 1),
               ST64(0, 0, 1), EXIT),
          7, "flat", "which is read-only");
  accepted(vm,
           LOAD(vm, MOVI(6, 5), MAP(7, 1), KEY(10), MOV(1, 7), CALL(1), JEQI(0, 0, 2),
                LDX64(0, 0, 0), EXIT, MOV(0, 6), EXIT),
           "a program that uses map 1");
  ok(bpftime_vm_register_map(vm, 1, &own) == -EBUSY, "and so it stays");
  ok(bpftime_vm_register_map(vm, 9, &own) == 0, "another may come");
  const struct bpftime_vm_map bare = {.handle = &eight};
  ok(bpftime_vm_register_map(vm, 3, &bare) == 0, "a map without sizes");
  refused(vm, LOAD(vm, KEY(10), MAP(1, 3), CALL(1), MOVI(0, 0), EXIT), 3, "",
          "is not for verified programs");
  bpftime_vm_destroy(vm);
}

static void expect_limited(bpftime_vm* vm, uint64_t insns, uint64_t wall_ns, int want,
                           const char* name) {
  const struct bpftime_vm_limits limits = {insns, wall_ns, NULL, 0};
  uint64_t result = 0;
  const int got = bpftime_vm_exec_limited(vm, NULL, 0, &limits, &result);
  if (!ok(got == want, name)) printf("# got %d, want %d\n", got, want);
}

static void limits(void) {
  bpftime_vm* vm = bpftime_vm_create(NULL);
  for (int compiled = 0; compiled < 2; compiled++) {
    printf("# %s\n", compiled ? "compiled" : "interpreted");
    const uint32_t flags = BPFTIME_VM_BUDGETED;
#define READY(...) \
  (LOAD_UNVERIFIED(vm, __VA_ARGS__) == 0 && (!compiled || bpftime_vm_compile(vm, flags) == 0))
    ok(READY(INSN(0x05, 0, 0, -1, 0)), "a goto to itself");
    expect_limited(vm, 1000000, 0, -EDQUOT, "instructions are counted");
    expect_limited(vm, 0, 2000000, -ETIMEDOUT, "so is time");
    expect_limited(vm, UINT64_MAX, 1000000, -ETIMEDOUT, "whichever is first");
    ok(READY(MOVI(0, 0), ADDI(0, 1), JNEI(0, 1000, -2), EXIT), "a loop of 1000 turns");
    expect_limited(vm, 500, 0, -EDQUOT, "is too long for 500 instructions");
    expect_limited(vm, 1999, 0, -EDQUOT, "and for 1999");
    expect_limited(vm, 2010, 0, 0, "but not for 2010");
    expect_limited(vm, 0, 0, 0, "nor without a limit");
    expect_limited(vm, 0, 10000000000, 0, "nor in ten seconds");
    /* r6 = 0; r1 = r6; call f; r6 = r0; if r6 != 100000 goto; r0 = r6; exit; f: r0 = r1 + 1 */
    ok(READY(MOVI(6, 0), MOV(1, 6), CALL_LOCAL(4), MOV(6, 0), JNEI(6, 100000, -4), MOV(0, 6), EXIT,
             MOV(0, 1), ADDI(0, 1), EXIT),
       "a loop with calls");
    expect_limited(vm, 0, 0, 0, "ends by itself");
    expect_limited(vm, 100000, 0, -EDQUOT, "or when it must");
    /* r0 = 7; f is called and does not come back: nothing after the call is done */
    uint64_t memory = 5, result = 0;
    ok(READY(MOV(6, 1), CALL_LOCAL(3), ST64(6, 0, 9), MOVI(0, 7), EXIT, INSN(0x05, 0, 0, -1, 0)),
       "a function that does not end");
    const struct bpftime_vm_limits some = {50000, 0, NULL, 0};
    ok(bpftime_vm_exec_limited(vm, &memory, 8, &some, &result) == -EDQUOT && memory == 5 &&
           result == 0,
       "its caller does nothing more");
  }
  uint64_t memory[2] = {1, 2}, result = 0;
  const struct bpftime_vm_range range = {memory, 8};
  const struct bpftime_vm_limits ranges = {0, 0, &range, 1};
  ok(LOAD_UNVERIFIED(vm, LDX64(0, 1, 0), STX64(10, 0, -8), LDX64(0, 10, -8), EXIT) == 0 &&
         bpftime_vm_exec_limited(vm, memory, 16, &ranges, &result) == 0 && result == 1,
     "memory that was given, and the stack");
  ok(LOAD_UNVERIFIED(vm, LDX64(0, 1, 8), EXIT) == 0 &&
         bpftime_vm_exec_limited(vm, memory, 16, &ranges, &result) == -EFAULT,
     "memory that was not");
  ok(bpftime_vm_compile(vm, BPFTIME_VM_BUDGETED) == 0 && bpftime_vm_function(vm) == NULL,
     "code with a budget is no function of two arguments");
  ok(LOAD_UNVERIFIED(vm, INSN(0x18, 2, 4, 0, 3), 0, MOVI(0, 0), EXIT, MOVI(0, 0), EXIT) == 0 &&
         bpftime_vm_compile(vm, BPFTIME_VM_BUDGETED) == -EOPNOTSUPP,
     "no budgets in compiled callbacks");
  bpftime_vm_destroy(vm);
}

struct ledger {
  size_t held, most;
  int calls, fails_at;
};
static void* ledger_allocate(void* user, size_t bytes, size_t alignment) {
  struct ledger* ledger = user;
  if (++ledger->calls == ledger->fails_at) return NULL;
  ledger->held += bytes;
  if (ledger->held > ledger->most) ledger->most = ledger->held;
  return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
static void ledger_release(void* user, void* memory, size_t bytes) {
  ((struct ledger*)user)->held -= bytes;
  free(memory);
}

static void memory(void) {
  struct ledger ledger = {0, 0, 0, 0};
  const struct bpftime_vm_allocator allocator = {ledger_allocate, ledger_release, &ledger};
  static uint64_t code[5000];
  for (int i = 0; i < 4999; i++) code[i] = MOVI(0, i);
  code[4999] = EXIT;
  bpftime_vm* vm = bpftime_vm_create(&allocator);
  const size_t empty = ledger.held;
  ok(vm != NULL && empty > 0, "a machine lives where its embedder says");
  ok(bpftime_vm_load(vm, code, sizeof code, 0) == 0 && ledger.held > empty + 2 * sizeof code,
     "so do its programs");
  uint64_t result = 0;
  ok(bpftime_vm_exec(vm, NULL, 0, &result) == 0 && result == 4998, "which run");
  bpftime_vm_destroy(vm);
  ok(ledger.held == 0, "and everything is given back");
  ledger.calls = 0;
  ledger.fails_at = 1;
  ok(bpftime_vm_create(&allocator) == NULL, "no memory, no machine");
}

int main(void) {
  contexts();
  helpers();
  maps();
  limits();
  memory();
  printf("1..%d\n", count);
  return failures != 0;
}

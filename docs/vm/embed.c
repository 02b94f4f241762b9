/* SPDX-License-Identifier: MIT */
/* The library from C: a rule for orders that can be changed while a server runs. Rules see an order
 * and nothing else, whatever is in them.
 * cc embed.c $(pkg-config --cflags --libs bpftime_vm) && ./a.out */
#include <bpftime/vm.h>
#include <errno.h>
#include <stdio.h>

struct order {
  uint32_t price, count; /* what rules read */
  uint64_t customer;     /* what they do not */
};
static const struct bpftime_vm_field kFields[] = {{0, 4, 0}, {4, 4, 0}};
static const struct bpftime_vm_context kOrder = {"struct order", sizeof(struct order), 2, kFields};

/* What programs call as helper 100. */
static uint64_t discount_of(uint64_t total, uint64_t b, uint64_t c, uint64_t d, uint64_t e) {
  (void)b, (void)c, (void)d, (void)e;
  return total > 1000 ? total / 10 : 0;
}
static const struct bpftime_vm_contract kDiscountOf = {"discount_of", {BPFTIME_VM_ARG_ANY}, 0, 0};

/* An instruction: operation, destination and source register, offset, immediate. */
#define INSN(op, dst, src, off, imm)                               \
  ((uint64_t)(op) | (uint64_t)(dst) << 8 | (uint64_t)(src) << 12 | \
   (uint64_t)(uint16_t)(off) << 16 | (uint64_t)(uint32_t)(imm) << 32)

static const uint64_t kRule[] = {
    INSN(0x61, 6, 1, 0, 0),   /* r6 = *(u32 *)(r1 + 0): price */
    INSN(0x61, 2, 1, 4, 0),   /* r2 = *(u32 *)(r1 + 4): count */
    INSN(0x2f, 6, 2, 0, 0),   /* r6 *= r2 */
    INSN(0xbf, 1, 6, 0, 0),   /* r1 = r6 */
    INSN(0x85, 0, 0, 0, 100), /* call 100 */
    INSN(0x1f, 6, 0, 0, 0),   /* r6 -= r0 */
    INSN(0xbf, 0, 6, 0, 0),   /* r0 = r6 */
    INSN(0x95, 0, 0, 0, 0),   /* exit */
};
static const uint64_t kSpy[] = {
    INSN(0x79, 0, 1, 8, 0), /* r0 = *(u64 *)(r1 + 8): customer */
    INSN(0x95, 0, 0, 0, 0), /* exit */
};
static const uint64_t kEndless[] = {
    INSN(0x05, 0, 0, -1, 0), /* goto -1 */
};

int main(void) {
  const struct order orders[] = {{10, 7, 1}, {25, 80, 2}};
  struct order order;
  uint64_t total;
  bpftime_vm* vm = bpftime_vm_create(NULL);
  if (vm == NULL) return 1;
  bpftime_vm_set_context(vm, &kOrder);
  bpftime_vm_register(vm, 100, discount_of, &kDiscountOf);
  if (bpftime_vm_load(vm, kSpy, sizeof kSpy, 0) != 0) {
    printf("refused: %s\n", bpftime_vm_error(vm));
  }
  if (bpftime_vm_load(vm, kRule, sizeof kRule, 0) != 0) return 1;
  /* Where executable memory is forbidden the program is interpreted, to the same result. */
  if (bpftime_vm_compile(vm, 0) != 0) fprintf(stderr, "not compiled: %s\n", bpftime_vm_error(vm));
  for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
    order = orders[i];
    if (bpftime_vm_exec(vm, &order, sizeof order, &total) != 0) return 1;
    printf("%u x %u = %llu\n", order.count, order.price, (unsigned long long)total);
  }
  /* A program that nobody verified, held to a millisecond. */
  const struct bpftime_vm_limits limits = {0, 1000000, NULL, 0};
  if (bpftime_vm_load(vm, kEndless, sizeof kEndless, BPFTIME_VM_UNVERIFIED) != 0 ||
      bpftime_vm_compile(vm, BPFTIME_VM_BUDGETED) != 0) {
    return 1;
  }
  if (bpftime_vm_exec_limited(vm, &order, sizeof order, &limits, &total) == -ETIMEDOUT) {
    printf("stopped after a millisecond\n");
  }
  bpftime_vm_destroy(vm);
  return 0;
}

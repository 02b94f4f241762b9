/* SPDX-License-Identifier: MIT */
/* bpftime/vm.h: an eBPF virtual machine to embed. Link with libbpftime_vm.
 *
 *   bpftime_vm* vm = bpftime_vm_create();
 *   bpftime_vm_register(vm, 1, my_helper);
 *   if (bpftime_vm_load(vm, code, code_bytes) != 0) puts(bpftime_vm_error(vm));
 *   bpftime_vm_compile(vm);
 *   bpftime_vm_exec(vm, &ctx, sizeof ctx, &result);
 *   bpftime_vm_destroy(vm);
 *
 * Programs are validated structurally when they are loaded: legal instructions, jumps and calls,
 * stack accesses below r10. What they do with other memory is NOT checked: run only programs that
 * you trust or that a verifier accepted. A program that loops for ever does so.
 *
 * Functions that can fail return 0 or a negative errno; bpftime_vm_error() then has a sentence.
 * One bpftime_vm must not be changed (register, load, compile) while any thread uses it; any number
 * of threads may execute it at the same time. There is no global state. */
#ifndef BPFTIME_VM_H
#define BPFTIME_VM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BPFTIME_VM_API __attribute__((visibility("default")))

/* Limits. Instructions are 8-byte slots; a 64-bit immediate takes two. */
#define BPFTIME_VM_INSNS_MAX 1048576u
#define BPFTIME_VM_HELPERS_MAX 512u /* helper ids are below this */
#define BPFTIME_VM_FRAMES_MAX 8u    /* nested functions, the main program included */
#define BPFTIME_VM_FRAME_BYTES 512u /* stack of each */

typedef struct bpftime_vm bpftime_vm;

/* A helper: gets r1 to r5, its result becomes r0. */
typedef uint64_t (*bpftime_vm_helper)(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4,
                                      uint64_t r5);

/* A compiled program: gets the context in r1 and its size in bytes in r2, returns r0. */
typedef uint64_t (*bpftime_vm_entry)(void* ctx, size_t ctx_bytes);

/* What the map references of a program mean. */
struct bpftime_vm_map {
  void* handle; /* value of a 64-bit immediate of kind map; what helpers get. Not null */
  void* values; /* first value: base of immediates of kind map value. Null: there are none */
  /* An array whose lookup by helper 1 (r1 = map, r2 = address of a 32-bit key, result address of
   * the value or 0) may be done inline: how many values, and bytes from one to the next. 0: none */
  uint32_t array_entries;
  uint32_t value_stride;
};

/* The first instruction that was refused. */
struct bpftime_vm_refusal {
  uint32_t insn_index; /* slot, from 0 */
  uint8_t opcode;      /* of that slot */
  const char* reason;  /* static sentence, lower case, no full stop */
};

/* A machine without program. Null if there is no memory. */
BPFTIME_VM_API bpftime_vm* bpftime_vm_create(void);

/* Frees the machine, its program and its code. Null is allowed. */
BPFTIME_VM_API void bpftime_vm_destroy(bpftime_vm* vm);

/* Makes `fn` callable as helper `id`; null takes it away. Holds for programs loaded afterwards.
 * -EINVAL: id is not below BPFTIME_VM_HELPERS_MAX. */
BPFTIME_VM_API int bpftime_vm_register(bpftime_vm* vm, uint32_t id, bpftime_vm_helper fn);

/* Gives map references with number `map_id` (the immediate's low half) their meaning; the struct is
 * copied. Holds for programs loaded afterwards. -EINVAL: no handle, or array without values. */
BPFTIME_VM_API int bpftime_vm_register_map(bpftime_vm* vm, uint32_t map_id,
                                           const struct bpftime_vm_map* map);

/* Checks bytecode against the helpers registered so far without loading it. 0, or -EINVAL with
 * `refusal` filled in (if it is not null). `code` is little-endian 8-byte instructions. */
BPFTIME_VM_API int bpftime_vm_validate(bpftime_vm* vm, const void* code, size_t code_bytes,
                                       struct bpftime_vm_refusal* refusal);

/* Validates and loads a program; the code is copied. A former program is replaced, or stays if this
 * fails. -EINVAL: refused, see bpftime_vm_error(); -ENOENT: names an unknown map; -E2BIG: takes the
 * address of more than 16 functions. */
BPFTIME_VM_API int bpftime_vm_load(bpftime_vm* vm, const void* code, size_t code_bytes);

/* Compiles the loaded program to machine code. -ENOENT: nothing is loaded; -ENOMEM; or what
 * memfd_create and mmap say (executable memory may be forbidden): then it is still interpreted. */
BPFTIME_VM_API int bpftime_vm_compile(bpftime_vm* vm);

/* Runs the program, compiled if it was compiled and interpreted otherwise, with r1 = ctx and
 * r2 = ctx_bytes; stores r0. -ENOENT: nothing is loaded. */
BPFTIME_VM_API int bpftime_vm_exec(const bpftime_vm* vm, void* ctx, size_t ctx_bytes,
                                   uint64_t* result);

/* The compiled program as a function, for the shortest way to call it; null if it is not compiled.
 * Valid until the next load, compile or destroy. */
BPFTIME_VM_API bpftime_vm_entry bpftime_vm_function(const bpftime_vm* vm);

/* The machine code, for disassemblers; null if the program is not compiled. Valid as above. */
BPFTIME_VM_API const void* bpftime_vm_code(const bpftime_vm* vm, size_t* code_bytes);

/* Text of the loaded program, one line "SLOT: instruction" each. Writes at most `buf_bytes` with a
 * terminating zero and returns the length that the whole text has, as snprintf does. */
BPFTIME_VM_API size_t bpftime_vm_disasm(const bpftime_vm* vm, char* buf, size_t buf_bytes);

/* The sentence of the last call on this machine that failed; "" if none did. Valid until the next
 * call that changes the machine. */
BPFTIME_VM_API const char* bpftime_vm_error(const bpftime_vm* vm);

#ifdef __cplusplus
}
#endif
#endif

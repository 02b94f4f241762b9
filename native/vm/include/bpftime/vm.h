/* SPDX-License-Identifier: MIT */
/* bpftime/vm.h: an eBPF virtual machine to embed. Link with libbpftime_vm.
 *
 *   bpftime_vm* vm = bpftime_vm_create(NULL);
 *   bpftime_vm_set_context(vm, &what_r1_points_at);
 *   bpftime_vm_register(vm, 100, my_helper, &what_it_demands);
 *   if (bpftime_vm_load(vm, code, code_bytes, 0) != 0) puts(bpftime_vm_error(vm));
 *   bpftime_vm_compile(vm, 0);
 *   bpftime_vm_exec(vm, &ctx, sizeof ctx, &result);
 *   bpftime_vm_destroy(vm);
 *
 * Programs are verified when they are loaded: on no path do they touch anything but the context as
 * it was described, their stack and values of maps, they give helpers what those demand, and they
 * end. With BPFTIME_VM_UNVERIFIED only their form is checked (instructions, jumps, calls): run such
 * ones only if you trust them, or with bpftime_vm_exec_limited().
 *
 * Functions that can fail return 0 or a negative errno; bpftime_vm_error() then has a sentence.
 * One bpftime_vm must not be changed (register, set, load, compile) while any thread uses it; any
 * number of threads may execute it at the same time. There is no global state. */
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

/* ---- memory ---- */

/* Where a machine keeps what lives as long as it does: itself, its bytecode, what it was told of
 * maps. Both functions must be callable from the thread that changes the machine. Text is mapped
 * (mmap), and what verifying and compiling need while they run comes from malloc. */
struct bpftime_vm_allocator {
  void* (*allocate)(void* user, size_t bytes, size_t alignment); /* null: no memory */
  void (*release)(void* user, void* memory, size_t bytes);
  void* user;
};

/* A machine without program. Null if there is no memory. `allocator` is copied; null: malloc. */
BPFTIME_VM_API bpftime_vm* bpftime_vm_create(const struct bpftime_vm_allocator* allocator);

/* Frees the machine, its program and its code. Null is allowed. */
BPFTIME_VM_API void bpftime_vm_destroy(bpftime_vm* vm);

/* ---- what programs may use ---- */

/* A helper: gets r1 to r5, its result becomes r0. */
typedef uint64_t (*bpftime_vm_helper)(uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4,
                                      uint64_t r5);

/* What a helper demands of an argument. */
enum bpftime_vm_arg {
  BPFTIME_VM_ARG_NONE,         /* there is none: the last ones only */
  BPFTIME_VM_ARG_ANY,          /* a number or address that was set; not to be followed */
  BPFTIME_VM_ARG_CONTEXT,      /* the context, unchanged */
  BPFTIME_VM_ARG_MAP,          /* a map */
  BPFTIME_VM_ARG_KEY,          /* memory that holds a key of the map in r1 */
  BPFTIME_VM_ARG_VALUE,        /* memory that holds a value of the map in r1 */
  BPFTIME_VM_ARG_READ,         /* memory that is read; how many bytes is the next argument */
  BPFTIME_VM_ARG_READ_OR_NULL, /* the same, or null with size 0 */
  BPFTIME_VM_ARG_WRITE,        /* memory that is written as a whole, as many bytes */
  BPFTIME_VM_ARG_NUMBER_OUT,   /* memory for a result of 8 bytes */
  BPFTIME_VM_ARG_SIZE,         /* size of the argument before it, at least 1; 32 bits wide */
  BPFTIME_VM_ARG_SIZE_OR_ZERO
};

/* What a helper gives back. */
enum bpftime_vm_result {
  BPFTIME_VM_RESULT_NUMBER,
  BPFTIME_VM_RESULT_NOTHING,       /* r0 may not be read */
  BPFTIME_VM_RESULT_VALUE_OR_NULL, /* address of a value of the map in r1, or 0 */
};

struct bpftime_vm_contract {
  const char* name;     /* for sentences; lives as long as the machine */
  uint8_t arguments[5]; /* enum bpftime_vm_arg of r1 to r5 */
  uint8_t result;       /* enum bpftime_vm_result */
  uint8_t changes_map;  /* not 0: refused for maps that are read-only for programs */
};

/* Makes `fn` callable as helper `id`; null takes it away. The contract is copied; without one only
 * unverified programs may call the helper. Holds for programs loaded afterwards. Helpers 1, 2, 3
 * (lookup, update, delete, as in the kernel) are the machine's own until one of these numbers is
 * registered; from then on all three are yours, and get the `handle` of maps in r1.
 * -EINVAL: id is not below BPFTIME_VM_HELPERS_MAX, or the contract has no such kinds. */
BPFTIME_VM_API int bpftime_vm_register(bpftime_vm* vm, uint32_t id, bpftime_vm_helper fn,
                                       const struct bpftime_vm_contract* contract);

/* Bytes of a context that programs may touch. */
struct bpftime_vm_field {
  uint32_t off;   /* from where r1 points */
  uint32_t bytes; /* accesses lie within one field */
  uint32_t is_writable;
};

/* What r1 points at. Everything is copied but the name, which lives as long as the machine. */
struct bpftime_vm_context {
  const char* name; /* for sentences: "struct order" */
  uint32_t bytes;   /* contexts are at least so large: bpftime_vm_exec() sees to it */
  uint32_t field_count;
  const struct bpftime_vm_field* fields;
};

/* Describes the context of programs loaded afterwards. Without one, and with null, verified
 * programs must not look at it. -EINVAL: a field is not within the context. */
BPFTIME_VM_API int bpftime_vm_set_context(bpftime_vm* vm, const struct bpftime_vm_context* context);

/* A kind of map of one's own: what the machine's helpers 1, 2 and 3 do with it. They are called by
 * every thread that runs programs. Null members: -EOPNOTSUPP, or not found. */
struct bpftime_vm_map_ops {
  /* Address of the value of a key, valid until the program ends; null: there is none. */
  void* (*lookup)(void* handle, const void* key);
  /* 0 or a negative errno. `flags` are the program's. */
  int64_t (*update)(void* handle, const void* key, const void* value, uint64_t flags);
  int64_t (*remove)(void* handle, const void* key);
};

/* What the map references of a program mean. */
struct bpftime_vm_map {
  void* handle; /* value of a 64-bit immediate of kind map, for helpers and ops. Not null */
  void* values; /* first value: base of immediates of kind map value. Null: there are none */
  /* An array, whose lookup by helper 1 (r1 = map, r2 = address of a 32-bit key, result address of
   * the value or 0) may be done inline: how many values, and bytes from one to the next. 0: none */
  uint32_t array_entries;
  uint32_t value_stride;
  /* For verified programs, which else may not use it: */
  uint32_t key_bytes;                   /* of an array: 4 */
  uint32_t value_bytes;                 /* of which programs may touch each */
  uint32_t is_read_only;                /* programs do not change values */
  const char* name;                     /* for sentences and objects; copied. Null: none */
  const struct bpftime_vm_map_ops* ops; /* lives as long as the machine. Null: an array, or yours */
};

/* Gives map references with number `map_id` (the immediate's low half) their meaning; the struct is
 * copied. -EINVAL: no handle, or array without values; -EBUSY: the loaded program uses the number.
 */
BPFTIME_VM_API int bpftime_vm_register_map(bpftime_vm* vm, uint32_t map_id,
                                           const struct bpftime_vm_map* map);

/* ---- programs ---- */

/* Flags of bpftime_vm_load() and its like. */
#define BPFTIME_VM_UNVERIFIED 1u /* check the form only */

/* Verifies (or, with BPFTIME_VM_UNVERIFIED, checks) a program and loads it; the code, little-endian
 * 8-byte instructions, is copied. A former program is replaced, or stays if this fails.
 * -EINVAL, -EACCES, -E2BIG: refused, see bpftime_vm_refused(); -ENOENT: names an unknown map. */
BPFTIME_VM_API int bpftime_vm_load(bpftime_vm* vm, const void* code, size_t code_bytes,
                                   uint32_t flags);

/* Loads a program of an eBPF object file (clang -target bpf): `program` is the name of its function
 * or section; null: the first one outside of .text. Maps of section .maps are those that are
 * registered under their names, functions that are declared and not defined are helpers by the
 * names of their contracts, .rodata, .data and .bss become the machine's, beginning anew with each
 * load. Refusals have the source line if the object has type information (-g). CO-RE relocations
 * are not done. -ENOEXEC: it is no such file or names what there is not; else as bpftime_vm_load().
 */
BPFTIME_VM_API int bpftime_vm_load_object(bpftime_vm* vm, const void* object, size_t object_bytes,
                                          const char* program, uint32_t flags);

/* The same as bpftime_vm_load() without loading it. */
BPFTIME_VM_API int bpftime_vm_verify(bpftime_vm* vm, const void* code, size_t code_bytes,
                                     uint32_t flags);

/* What is wrong with a program. Strings are valid until the next call that changes the machine. */
struct bpftime_vm_refusal {
  uint32_t insn_index; /* slot, from 0 */
  uint8_t opcode;      /* of that slot */
  const char* reason; /* one sentence: what, why, what to write instead; lower case, no full stop */
  const char* source; /* "file.c:12 `line`" if the object has line information, else "" */
  const char* path;   /* lines: how control got there, and what the registers held; or "" */
};

/* Of the last load or verify that refused a program; null if the last one did not. */
BPFTIME_VM_API const struct bpftime_vm_refusal* bpftime_vm_refused(const bpftime_vm* vm);

/* Flags of bpftime_vm_compile(). */
#define BPFTIME_VM_BUDGETED 1u /* the code obeys bpftime_vm_exec_limited(): loops are slower */

/* Compiles the loaded program to machine code. -ENOENT: nothing is loaded; -EOPNOTSUPP: budgets in
 * a program with callbacks; -ENOMEM; or what memfd_create and mmap say (executable memory may be
 * forbidden): then it is still interpreted. */
BPFTIME_VM_API int bpftime_vm_compile(bpftime_vm* vm, uint32_t flags);

/* Runs the program, compiled if it was compiled and interpreted otherwise, with r1 = ctx and
 * r2 = ctx_bytes; stores r0. -ENOENT: nothing is loaded; -EINVAL: the context is smaller than what
 * the program was verified for. */
BPFTIME_VM_API int bpftime_vm_exec(const bpftime_vm* vm, void* ctx, size_t ctx_bytes,
                                   uint64_t* result);

struct bpftime_vm_range {
  const void* begin;
  size_t bytes;
};

/* What one call may use. Zero and null: as much as it likes. */
struct bpftime_vm_limits {
  uint64_t insns;   /* instructions, counted as below */
  uint64_t wall_ns; /* by CLOCK_MONOTONIC, from the call on */
  /* Not null: the program is interpreted, and touches its stack and this memory only. */
  const struct bpftime_vm_range* ranges;
  size_t range_count;
};

/* Runs the program as bpftime_vm_exec() does, within limits: compiled if it was compiled with
 * BPFTIME_VM_BUDGETED and no ranges are given, else interpreted. Compiled code counts where it
 * jumps backwards (what lies between the jump and where it leads) and when it enters a function
 * (all of it), so it may count more than the interpreter, never less than a full turn. Both look at
 * the clock every few microseconds of running instructions; helpers are not interrupted.
 * -EDQUOT: the instructions are used up; -ETIMEDOUT: the time is; -EFAULT: it touched other memory.
 * What the program did until then stays done. */
BPFTIME_VM_API int bpftime_vm_exec_limited(const bpftime_vm* vm, void* ctx, size_t ctx_bytes,
                                           const struct bpftime_vm_limits* limits,
                                           uint64_t* result);

/* A compiled program: gets the context in r1 and its size in bytes in r2, returns r0. */
typedef uint64_t (*bpftime_vm_entry)(void* ctx, size_t ctx_bytes);

/* The compiled program as a function, for the shortest way to call it; the context has to be as
 * large as it was described. Null if it is not compiled, or with BPFTIME_VM_BUDGETED. Valid until
 * the next load, compile or destroy. */
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

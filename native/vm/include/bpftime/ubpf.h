/* SPDX-License-Identifier: MIT */
/* bpftime/ubpf.h: programs that embed ubpf (https://github.com/iovisor/ubpf), compiled against
 * libbpftime_vm: include this in place of <ubpf.h>. The names are ubpf's, the symbols are not: both
 * libraries can be in one process.
 *
 * What differs:
 *   - Bounds checks are those of ubpf_exec, which interprets then: a program touches its memory
 *     argument and its stack. What ubpf_compile gives is not checked: call it only for programs
 *     that you trust or that a verifier accepted (bpftime_vm_load).
 *   - ubpf_register holds for what is loaded afterwards; functions get five arguments, no cookie.
 *   - Without bounds checks and limit ubpf_exec runs the compiled program once there is one.
 *   - ELF files: code, calls between its sections, calls of registered functions by name. A file
 *     that refers to data or maps is refused.
 *   - Not there: ubpf_translate, safe regions, pointer secrets, dispatchers, debug callbacks.
 * Functions that take `errmsg` store a sentence there when they fail (if it is not null), which the
 * caller frees with free(). A machine is used by one thread while it changes, as in bpftime/vm.h.
 */
#ifndef BPFTIME_UBPF_H
#define BPFTIME_UBPF_H

#include <bpftime/vm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ubpf_create bpftime_ubpf_create
#define ubpf_destroy bpftime_ubpf_destroy
#define ubpf_toggle_bounds_check bpftime_ubpf_toggle_bounds_check
#define ubpf_set_error_print bpftime_ubpf_set_error_print
#define ubpf_register bpftime_ubpf_register
#define ubpf_lookup_registered_function bpftime_ubpf_lookup_registered_function
#define ubpf_load bpftime_ubpf_load
#define ubpf_load_elf bpftime_ubpf_load_elf
#define ubpf_load_elf_ex bpftime_ubpf_load_elf_ex
#define ubpf_unload_code bpftime_ubpf_unload_code
#define ubpf_exec bpftime_ubpf_exec
#define ubpf_compile bpftime_ubpf_compile
#define ubpf_set_instruction_limit bpftime_ubpf_set_instruction_limit

struct ubpf_vm;
typedef bpftime_vm_helper external_function_t;
typedef uint64_t (*ubpf_jit_fn)(void* mem, size_t mem_len);
#define as_external_function_t(fn) ((external_function_t)(fn))

/* A machine without program; null if there is no memory. */
BPFTIME_VM_API struct ubpf_vm* ubpf_create(void);
/* Frees it; null is allowed. */
BPFTIME_VM_API void ubpf_destroy(struct ubpf_vm* vm);
/* Whether ubpf_exec checks accesses of memory; returns what was so before. True at first. */
BPFTIME_VM_API bool ubpf_toggle_bounds_check(struct ubpf_vm* vm, bool enable);
/* Where ubpf_exec says why it could not run; fprintf at first. */
BPFTIME_VM_API void ubpf_set_error_print(struct ubpf_vm* vm,
                                         int (*error_printf)(FILE* stream, const char* format,
                                                             ...));
/* Makes `fn` callable as `index`, and in ELF files by name. 0, or -1: index is too large, or no
 * name. */
BPFTIME_VM_API int ubpf_register(struct ubpf_vm* vm, unsigned int index, const char* name,
                                 external_function_t fn);
/* The index of a registered function, or (unsigned int)-1. */
BPFTIME_VM_API unsigned int ubpf_lookup_registered_function(struct ubpf_vm* vm, const char* name);
/* Validates and loads bytecode. 0, or -1: refused, or something is loaded already. */
BPFTIME_VM_API int ubpf_load(struct ubpf_vm* vm, const void* code, uint32_t code_len,
                             char** errmsg);
/* Loads an eBPF object file whose main program is at the beginning of .text. 0 or -1. */
BPFTIME_VM_API int ubpf_load_elf(struct ubpf_vm* vm, const void* elf, size_t elf_len,
                                 char** errmsg);
/* The same, with the main program at the beginning of a section of this name. */
BPFTIME_VM_API int ubpf_load_elf_ex(struct ubpf_vm* vm, const void* elf, size_t elf_len,
                                    const char* main_section_name, char** errmsg);
/* Takes the program away, its compiled code too; registered functions stay. */
BPFTIME_VM_API void ubpf_unload_code(struct ubpf_vm* vm);
/* Runs the program with r1 = mem and r2 = mem_len and stores r0. 0, or -1: nothing is loaded, the
 * program touched other memory (if that is checked), or the limit was reached. */
BPFTIME_VM_API int ubpf_exec(const struct ubpf_vm* vm, void* mem, size_t mem_len,
                             uint64_t* bpf_return_value);
/* How many instructions ubpf_exec runs at most, by the interpreter; 0: any number. Stores the
 * former limit if there is a place for it. Returns 0. */
BPFTIME_VM_API int ubpf_set_instruction_limit(struct ubpf_vm* vm, uint32_t limit,
                                              uint32_t* previous_limit);
/* The program as machine code, valid until it is unloaded; null and a sentence otherwise. */
BPFTIME_VM_API ubpf_jit_fn ubpf_compile(struct ubpf_vm* vm, char** errmsg);

#ifdef __cplusplus
}
#endif
#endif

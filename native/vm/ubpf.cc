// SPDX-License-Identifier: MIT
// include/bpftime/ubpf.h over include/bpftime/vm.h: names and errors as programs for ubpf expect
// them, nothing of the machine itself.
#include "include/bpftime/ubpf.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <string>

#include "elf_text.h"

struct ubpf_vm {
  bpftime_vm* vm = nullptr;
  bool is_loaded = false;
  bool bounds_check = true;
  uint32_t insn_limit = 0;  // of a run; 0: none
  int (*error_printf)(FILE* stream, const char* format, ...) = std::fprintf;
  struct Function {
    std::string name;
    external_function_t fn;
  };
  std::map<unsigned int, Function> functions;
};

namespace {

int refuse(char** errmsg, const std::string& why) {
  if (errmsg != nullptr) *errmsg = strdup(why.c_str());
  return -1;
}

int load(ubpf_vm* vm, const void* code, size_t code_bytes, char** errmsg) {
  if (vm->is_loaded) return refuse(errmsg, "a program is loaded already (ubpf_unload_code)");
  if (bpftime_vm_load(vm->vm, code, code_bytes, BPFTIME_VM_UNVERIFIED) != 0) {
    return refuse(errmsg, bpftime_vm_error(vm->vm));
  }
  vm->is_loaded = true;
  return 0;
}

/// A machine whose helpers are all the embedder's.
bpftime_vm* bare_machine() {
  bpftime_vm* vm = bpftime_vm_create(nullptr);
  if (vm != nullptr) bpftime_vm_register(vm, 1, nullptr, nullptr);
  return vm;
}

}  // namespace

ubpf_vm* ubpf_create(void) {
  auto* vm = new (std::nothrow) ubpf_vm;
  if (vm == nullptr) return nullptr;
  vm->vm = bare_machine();
  if (vm->vm != nullptr) return vm;
  delete vm;
  return nullptr;
}

void ubpf_destroy(ubpf_vm* vm) {
  if (vm == nullptr) return;
  bpftime_vm_destroy(vm->vm);
  delete vm;
}

bool ubpf_toggle_bounds_check(ubpf_vm* vm, bool enable) {
  const bool former = vm->bounds_check;
  vm->bounds_check = enable;
  return former;
}

void ubpf_set_error_print(ubpf_vm* vm, int (*error_printf)(FILE*, const char*, ...)) {
  vm->error_printf = error_printf != nullptr ? error_printf : std::fprintf;
}

int ubpf_register(ubpf_vm* vm, unsigned int index, const char* name, external_function_t fn) {
  if (name == nullptr || bpftime_vm_register(vm->vm, index, fn, nullptr) != 0) return -1;
  vm->functions[index] = {name, fn};
  return 0;
}

unsigned int ubpf_lookup_registered_function(ubpf_vm* vm, const char* name) {
  for (const auto& [index, function] : vm->functions) {
    if (function.fn != nullptr && function.name == name) return index;
  }
  return static_cast<unsigned int>(-1);
}

int ubpf_load(ubpf_vm* vm, const void* code, uint32_t code_len, char** errmsg) {
  return load(vm, code, code_len, errmsg);
}

int ubpf_load_elf(ubpf_vm* vm, const void* elf, size_t elf_len, char** errmsg) {
  return ubpf_load_elf_ex(vm, elf, elf_len, ".text", errmsg);
}

int ubpf_load_elf_ex(ubpf_vm* vm, const void* elf, size_t elf_len, const char* main_section_name,
                     char** errmsg) {
  const bpftime::HelperByName helper = [&](const std::string& name) -> int64_t {
    const unsigned int index = ubpf_lookup_registered_function(vm, name.c_str());
    return index == static_cast<unsigned int>(-1) ? -1 : int64_t{index};
  };
  std::string why;
  const std::vector<uint64_t> slots =
      bpftime::text_of_elf({static_cast<const uint8_t*>(elf), elf_len},
                           main_section_name != nullptr ? main_section_name : ".text", helper, why);
  if (slots.empty()) return refuse(errmsg, why);
  return load(vm, slots.data(), slots.size() * 8, errmsg);
}

void ubpf_unload_code(ubpf_vm* vm) {
  bpftime_vm* fresh = bare_machine();
  if (fresh == nullptr) return;  // it stays loaded, and the next load says so
  for (const auto& [index, function] : vm->functions) {
    bpftime_vm_register(fresh, index, function.fn, nullptr);
  }
  bpftime_vm_destroy(vm->vm);
  vm->vm = fresh;
  vm->is_loaded = false;
}

int ubpf_exec(const ubpf_vm* vm, void* mem, size_t mem_len, uint64_t* bpf_return_value) {
  bpftime_vm_limits limits{};
  const bpftime_vm_range memory{mem, mem_len};
  limits.insns = vm->insn_limit;
  if (vm->bounds_check) {
    limits.ranges = &memory;
    limits.range_count = 1;
  }
  const int fault = vm->bounds_check || vm->insn_limit != 0
                        ? bpftime_vm_exec_limited(vm->vm, mem, mem_len, &limits, bpf_return_value)
                        : bpftime_vm_exec(vm->vm, mem, mem_len, bpf_return_value);
  if (fault == 0) return 0;
  vm->error_printf(stderr, "%s\n",
                   fault == -ENOENT   ? "no program is loaded (ubpf_load)"
                   : fault == -EDQUOT ? "the program ran for too long"
                                      : "the program touched memory that is not its own");
  return -1;
}

int ubpf_set_instruction_limit(ubpf_vm* vm, uint32_t limit, uint32_t* previous_limit) {
  if (previous_limit != nullptr) *previous_limit = vm->insn_limit;
  vm->insn_limit = limit;
  return 0;
}

ubpf_jit_fn ubpf_compile(ubpf_vm* vm, char** errmsg) {
  if (bpftime_vm_compile(vm->vm, 0) == 0) return bpftime_vm_function(vm->vm);
  refuse(errmsg, bpftime_vm_error(vm->vm));
  return nullptr;
}

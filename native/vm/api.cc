// SPDX-License-Identifier: MIT
// The C interface of include/bpftime/vm.h over the C++ one of vm.h.
#include <linux/bpf.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "include/bpftime/vm.h"
#include "interp.h"
#include "isa.h"
#include "loaded_image.h"
#include "vm.h"

using bpftime::CompileOptions;
using bpftime::Failure;
using bpftime::GotKind;
using bpftime::GotSlot;
using bpftime::LoadedImage;
using bpftime::MapGeometry;
using bpftime::Program;
using bpftime::ProgramImage;
using bpftime::Resolver;
using bpftime::Result;
using bpftime::ValidateOptions;
using bpftime::Verdict;

static_assert(BPFTIME_VM_INSNS_MAX == bpftime::kInsnCountMax);
static_assert(BPFTIME_VM_HELPERS_MAX == bpftime::kHelperIdMax);
static_assert(BPFTIME_VM_FRAMES_MAX == bpftime::kCallFramesMax);
static_assert(BPFTIME_VM_FRAME_BYTES == bpftime::kFrameBytes);

struct bpftime_vm {
  bpftime_vm_helper helpers[BPFTIME_VM_HELPERS_MAX] = {};
  bpftime::HelperSet helper_set;
  std::map<uint32_t, bpftime_vm_map> maps;
  std::vector<uint64_t> slots;
  std::optional<Program> program;
  std::optional<LoadedImage> image;
  size_t code_bytes = 0;
  std::string error;
};

namespace {

uint64_t resolve(void* user, const GotSlot& slot) {
  const auto* vm = static_cast<const bpftime_vm*>(user);
  if (slot.kind == GotKind::kHelper) {
    return slot.index < BPFTIME_VM_HELPERS_MAX ? reinterpret_cast<uint64_t>(vm->helpers[slot.index])
                                               : 0;
  }
  const auto found = vm->maps.find(slot.index);
  if (found == vm->maps.end()) return 0;
  if (slot.kind == GotKind::kMap) return reinterpret_cast<uint64_t>(found->second.handle);
  const auto base = reinterpret_cast<uint64_t>(found->second.values);
  return base != 0 ? base + slot.offset : 0;
}

MapGeometry geometry_of(void* user, uint32_t map_id) {
  const auto* vm = static_cast<const bpftime_vm*>(user);
  const auto found = vm->maps.find(map_id);
  MapGeometry geometry;
  if (found == vm->maps.end() || found->second.array_entries == 0) return geometry;
  geometry.type = BPF_MAP_TYPE_ARRAY;
  geometry.max_entries = found->second.array_entries;
  geometry.value_stride = found->second.value_stride;
  return geometry;
}

int failed(bpftime_vm* vm, const Failure& failure) {
  vm->error = failure.reason;
  return -failure.errnum;
}

int refused(bpftime_vm* vm, const Verdict& verdict) {
  vm->error = "instruction " + std::to_string(verdict.insn_index) + ": " + verdict.reason;
  return -EINVAL;
}

std::vector<uint64_t> read_slots(const void* code, size_t code_bytes) {
  std::vector<uint64_t> slots(code_bytes / 8);
  if (!slots.empty()) std::memcpy(slots.data(), code, slots.size() * 8);
  return slots;
}

Verdict check(const bpftime_vm* vm, std::span<const uint64_t> slots, size_t code_bytes) {
  if (code_bytes % 8 != 0) return Verdict{false, 0, 0, "size is not a multiple of 8 bytes"};
  ValidateOptions options;
  options.helpers = &vm->helper_set;
  return bpftime::validate(slots, options);
}

}  // namespace

bpftime_vm* bpftime_vm_create(void) { return new (std::nothrow) bpftime_vm; }

void bpftime_vm_destroy(bpftime_vm* vm) { delete vm; }

int bpftime_vm_register(bpftime_vm* vm, uint32_t id, bpftime_vm_helper fn) {
  if (id >= BPFTIME_VM_HELPERS_MAX) return failed(vm, {EINVAL, "helper id is not below 512"});
  vm->helpers[id] = fn;
  vm->helper_set.set(id, fn != nullptr);
  return 0;
}

int bpftime_vm_register_map(bpftime_vm* vm, uint32_t map_id, const bpftime_vm_map* map) {
  if (map->handle == nullptr) return failed(vm, {EINVAL, "map has no handle"});
  if (map->array_entries != 0 && (map->values == nullptr || map->value_stride == 0)) {
    return failed(vm, {EINVAL, "array has no values"});
  }
  vm->maps[map_id] = *map;
  return 0;
}

int bpftime_vm_validate(bpftime_vm* vm, const void* code, size_t code_bytes,
                        bpftime_vm_refusal* refusal) {
  const Verdict verdict = check(vm, read_slots(code, code_bytes), code_bytes);
  if (verdict.ok) return 0;
  if (refusal != nullptr) *refusal = {verdict.insn_index, verdict.opcode, verdict.reason};
  return refused(vm, verdict);
}

int bpftime_vm_load(bpftime_vm* vm, const void* code, size_t code_bytes) {
  std::vector<uint64_t> slots = read_slots(code, code_bytes);
  const Verdict verdict = check(vm, slots, code_bytes);
  if (!verdict.ok) return refused(vm, verdict);
  Result<Program> program = Program::link(slots, Resolver{resolve, vm});
  if (!program.ok()) return failed(vm, program.error());
  vm->slots = std::move(slots);
  vm->program = std::move(program.value());
  vm->image.reset();
  vm->code_bytes = 0;
  return 0;
}

int bpftime_vm_compile(bpftime_vm* vm) {
  if (!vm->program) return failed(vm, {ENOENT, "no program is loaded"});
  CompileOptions options;
  options.helpers = &vm->helper_set;
  options.geometry = geometry_of;
  options.user = vm;
  // Helper 8 means what the embedder says it does, not the CPU's number.
  options.cpu_features &= ~bpftime::kCpuRdpid;
  const Result<ProgramImage> image = bpftime::compile(vm->slots, options);
  if (!image.ok()) return failed(vm, image.error());
  Result<LoadedImage> loaded = LoadedImage::map(image.value(), Resolver{resolve, vm});
  if (!loaded.ok()) return failed(vm, loaded.error());
  vm->code_bytes = image.value().text.size();
  vm->image = std::move(loaded.value());
  return 0;
}

int bpftime_vm_exec(const bpftime_vm* vm, void* ctx, size_t ctx_bytes, uint64_t* result) {
  if (!vm->program) return -ENOENT;
  *result = vm->image ? vm->image->run(ctx, ctx_bytes)
                      : bpftime::interp_run(*vm->program, ctx, ctx_bytes);
  return 0;
}

bpftime_vm_entry bpftime_vm_function(const bpftime_vm* vm) {
  return vm->image ? reinterpret_cast<bpftime_vm_entry>(vm->image->entry()) : nullptr;
}

const void* bpftime_vm_code(const bpftime_vm* vm, size_t* code_bytes) {
  *code_bytes = vm->code_bytes;
  return vm->image ? vm->image->entry() : nullptr;
}

size_t bpftime_vm_disasm(const bpftime_vm* vm, char* buf, size_t buf_bytes) {
  const std::string text = bpftime::isa::disasm_all(vm->slots);
  if (buf_bytes > 0) {
    const size_t copied = std::min(text.size(), buf_bytes - 1);
    std::memcpy(buf, text.data(), copied);
    buf[copied] = '\0';
  }
  return text.size();
}

const char* bpftime_vm_error(const bpftime_vm* vm) { return vm->error.c_str(); }

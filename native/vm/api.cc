// SPDX-License-Identifier: MIT
// The C interface of include/bpftime/vm.h over the C++ one of vm.h: machines and their programs.
// What the verifier is told stands in api_verify.cc.
#include <linux/bpf.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "budget.h"
#include "isa.h"
#include "machine.h"

using bpftime::Budget;
using bpftime::Checks;
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

static_assert(BPFTIME_VM_INSNS_MAX == bpftime::kInsnCountMax);
static_assert(BPFTIME_VM_HELPERS_MAX == bpftime::kHelperIdMax);
static_assert(BPFTIME_VM_FRAMES_MAX == bpftime::kCallFramesMax);
static_assert(BPFTIME_VM_FRAME_BYTES == bpftime::kFrameBytes);

namespace bpftime {

void* MachineMemory::do_allocate(size_t bytes, size_t alignment) {
  void* memory = hook_.allocate(hook_.user, bytes, alignment);
  if (memory == nullptr) std::abort();  // as without exceptions everywhere else
  return memory;
}

void MachineMemory::do_deallocate(void* memory, size_t bytes, size_t /*alignment*/) {
  hook_.release(hook_.user, memory, bytes);
}

}  // namespace bpftime

namespace {

uint64_t resolve(void* user, const GotSlot& slot) {
  const auto* vm = static_cast<const bpftime_vm*>(user);
  if (slot.kind == GotKind::kBudget)
    return reinterpret_cast<uint64_t>(bpftime::bpftime_budget_refill);
  if (slot.kind == GotKind::kHelper) {
    const auto found = vm->helpers.find(slot.index);
    return found != vm->helpers.end() ? reinterpret_cast<uint64_t>(found->second.fn) : 0;
  }
  const auto found = vm->maps.find(slot.index);
  if (found == vm->maps.end()) return 0;
  const bpftime_vm_map& map = found->second.map;
  if (slot.kind == GotKind::kMap) {
    return vm->has_own_map_helpers ? reinterpret_cast<uint64_t>(&found->second)
                                   : reinterpret_cast<uint64_t>(map.handle);
  }
  const auto base = reinterpret_cast<uint64_t>(map.values);
  return base != 0 ? base + slot.offset : 0;
}

MapGeometry geometry_of(void* user, uint32_t map_id) {
  const auto* vm = static_cast<const bpftime_vm*>(user);
  const auto found = vm->maps.find(map_id);
  MapGeometry geometry;
  if (found == vm->maps.end() || found->second.map.array_entries == 0) return geometry;
  geometry.type = BPF_MAP_TYPE_ARRAY;
  geometry.max_entries = found->second.map.array_entries;
  geometry.value_stride = found->second.map.value_stride;
  return geometry;
}

int failed(bpftime_vm* vm, const Failure& failure) {
  vm->error = failure.reason;
  return -failure.errnum;
}

void* malloc_hook(void* /*user*/, size_t bytes, size_t alignment) {
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
void free_hook(void* /*user*/, void* memory, size_t /*bytes*/) { std::free(memory); }

constexpr bpftime_vm_allocator kMalloc{malloc_hook, free_hook, nullptr};

std::vector<uint64_t> read_slots(const void* code, size_t code_bytes) {
  std::vector<uint64_t> slots(code_bytes / 8);
  if (!slots.empty()) std::memcpy(slots.data(), code, slots.size() * 8);
  return slots;
}

int run_interpreted(const bpftime_vm* vm, void* ctx, size_t ctx_bytes,
                    const bpftime_vm_limits& limits, uint64_t* result) {
  Budget budget = Budget::of(limits.insns, limits.wall_ns);
  Checks checks;
  checks.budget = &budget;
  checks.insns_left = static_cast<uint64_t>(budget.left);
  checks.ranges = {{0, UINT64_MAX}};
  if (limits.ranges != nullptr) {
    checks.ranges.clear();
    for (size_t i = 0; i < limits.range_count; ++i) {
      const auto begin = reinterpret_cast<uint64_t>(limits.ranges[i].begin);
      checks.ranges.push_back({begin, begin + limits.ranges[i].bytes});
    }
  }
  const uint64_t value = bpftime::interp_run(*vm->program, ctx, ctx_bytes, &checks);
  if (checks.reason == nullptr) {
    *result = value;
    return 0;
  }
  return budget.errnum != 0 ? -budget.errnum : -EFAULT;
}

int check_call(const bpftime_vm* vm, size_t ctx_bytes) {
  if (!vm->program) return -ENOENT;
  return ctx_bytes < vm->ctx_bytes_min ? -EINVAL : 0;
}

}  // namespace

bpftime_vm* bpftime_vm_create(const bpftime_vm_allocator* allocator) {
  const bpftime_vm_allocator& hook = allocator != nullptr ? *allocator : kMalloc;
  void* memory = hook.allocate(hook.user, sizeof(bpftime_vm), alignof(bpftime_vm));
  if (memory == nullptr) return nullptr;
  auto* vm = new (memory) bpftime_vm(hook);
  bpftime::add_own_map_helpers(vm);
  return vm;
}

void bpftime_vm_destroy(bpftime_vm* vm) {
  if (vm == nullptr) return;
  const bpftime_vm_allocator hook = vm->memory.hook();
  vm->~bpftime_vm();
  hook.release(hook.user, vm, sizeof(bpftime_vm));
}

int bpftime_vm_verify(bpftime_vm* vm, const void* code, size_t code_bytes, uint32_t flags) {
  if (code_bytes % 8 != 0) return failed(vm, {EINVAL, "size is not a multiple of 8 bytes"});
  return bpftime::judge(vm, read_slots(code, code_bytes), flags, {});
}

int bpftime_vm_load(bpftime_vm* vm, const void* code, size_t code_bytes, uint32_t flags) {
  if (code_bytes % 8 != 0) return failed(vm, {EINVAL, "size is not a multiple of 8 bytes"});
  return bpftime::load_slots(vm, read_slots(code, code_bytes), flags, {});
}

int bpftime::load_slots(bpftime_vm* vm, std::span<const uint64_t> slots, uint32_t flags,
                        const verify::DebugInfo& debug) {
  const int verdict = judge(vm, slots, flags, debug);
  if (verdict != 0) return verdict;
  Result<Program> program = Program::link(slots, Resolver{resolve, vm}, &vm->memory);
  if (!program.ok()) return failed(vm, program.error());
  vm->slots.assign(slots.begin(), slots.end());
  vm->program.emplace(std::move(program.value()));
  const bool is_verified = (flags & BPFTIME_VM_UNVERIFIED) == 0;
  vm->ctx_bytes_min = is_verified && vm->context ? vm->context->bytes : 0;
  vm->image.reset();
  vm->code_bytes = 0;
  return 0;
}

int bpftime_vm_compile(bpftime_vm* vm, uint32_t flags) {
  if (!vm->program) return failed(vm, {ENOENT, "no program is loaded"});
  CompileOptions options;
  options.helpers = &vm->helper_set;
  options.geometry = geometry_of;
  options.user = vm;
  options.is_budgeted = (flags & BPFTIME_VM_BUDGETED) != 0;
  // Helper 8 means what the embedder says it does, not the CPU's number.
  options.cpu_features &= ~bpftime::kCpuRdpid;
  const Result<ProgramImage> image = bpftime::compile(vm->slots, options);
  if (!image.ok()) return failed(vm, image.error());
  Result<LoadedImage> loaded = LoadedImage::map(image.value(), Resolver{resolve, vm});
  if (!loaded.ok()) return failed(vm, loaded.error());
  vm->code_bytes = image.value().text.size();
  vm->image = std::move(loaded.value());
  vm->is_budgeted = options.is_budgeted;
  return 0;
}

int bpftime_vm_exec(const bpftime_vm* vm, void* ctx, size_t ctx_bytes, uint64_t* result) {
  if (vm->is_budgeted && vm->image) {
    constexpr bpftime_vm_limits kNone{};
    return bpftime_vm_exec_limited(vm, ctx, ctx_bytes, &kNone, result);
  }
  const int fault = check_call(vm, ctx_bytes);
  if (fault != 0) return fault;
  *result = vm->image ? vm->image->run(ctx, ctx_bytes)
                      : bpftime::interp_run(*vm->program, ctx, ctx_bytes);
  return 0;
}

int bpftime_vm_exec_limited(const bpftime_vm* vm, void* ctx, size_t ctx_bytes,
                            const bpftime_vm_limits* limits, uint64_t* result) {
  const int fault = check_call(vm, ctx_bytes);
  if (fault != 0) return fault;
  if (!vm->image || !vm->is_budgeted || limits->ranges != nullptr) {
    return run_interpreted(vm, ctx, ctx_bytes, *limits, result);
  }
  Budget budget = Budget::of(limits->insns, limits->wall_ns);
  const auto entry = reinterpret_cast<uint64_t (*)(void*, uint64_t, Budget*)>(
      const_cast<void*>(vm->image->entry()));
  const uint64_t value = entry(ctx, ctx_bytes, &budget);
  if (budget.errnum != 0) return -budget.errnum;
  *result = value;
  return 0;
}

bpftime_vm_entry bpftime_vm_function(const bpftime_vm* vm) {
  if (!vm->image || vm->is_budgeted) return nullptr;
  return reinterpret_cast<bpftime_vm_entry>(const_cast<void*>(vm->image->entry()));
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

const bpftime_vm_refusal* bpftime_vm_refused(const bpftime_vm* vm) {
  return vm->is_refused ? &vm->refusal : nullptr;
}

const char* bpftime_vm_error(const bpftime_vm* vm) { return vm->error.c_str(); }

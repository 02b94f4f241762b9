// SPDX-License-Identifier: MIT
// What the C interface tells the verifier: contracts of helpers, contexts, maps; and the machine's
// own helpers for maps.
#include <linux/bpf.h>

#include <cstring>

#include "isa.h"
#include "machine.h"

namespace bpftime {
namespace {

using verify::Arg;
using verify::Contract;
using verify::Gives;

constexpr Arg kArgs[] = {Arg::kAny,   Arg::kAny,       Arg::kCtx,  Arg::kMap,
                         Arg::kKey,   Arg::kValue,     Arg::kRead, Arg::kReadOrNull,
                         Arg::kWrite, Arg::kNumberOut, Arg::kSize, Arg::kSizeOrZero};
static_assert(std::size(kArgs) == BPFTIME_VM_ARG_SIZE_OR_ZERO + 1);
constexpr Gives kResults[] = {Gives::kNumber, Gives::kNothing, Gives::kValueOrNull};
static_assert(std::size(kResults) == BPFTIME_VM_RESULT_VALUE_OR_NULL + 1);

bool is_size(uint8_t arg) {
  return arg == BPFTIME_VM_ARG_SIZE || arg == BPFTIME_VM_ARG_SIZE_OR_ZERO;
}
bool has_size(uint8_t arg) {
  return arg == BPFTIME_VM_ARG_READ || arg == BPFTIME_VM_ARG_READ_OR_NULL ||
         arg == BPFTIME_VM_ARG_WRITE;
}

/// Why a contract makes no sense; null if it does.
const char* contract_fault(const bpftime_vm_contract& contract) {
  bool has_ended = false;
  const uint8_t* args = contract.arguments;
  for (int i = 0; i < 5; ++i) {
    if (args[i] > BPFTIME_VM_ARG_SIZE_OR_ZERO) return "no such kind of argument";
    if (args[i] != BPFTIME_VM_ARG_NONE && has_ended) return "an argument follows none";
    has_ended |= args[i] == BPFTIME_VM_ARG_NONE;
    if (is_size(args[i]) && (i == 0 || !has_size(args[i - 1]))) {
      return "a size does not follow memory";
    }
    if (has_size(args[i]) && (i == 4 || !is_size(args[i + 1]))) {
      return "memory is not followed by its size";
    }
    const bool of_map = args[i] == BPFTIME_VM_ARG_KEY || args[i] == BPFTIME_VM_ARG_VALUE;
    if (of_map && args[0] != BPFTIME_VM_ARG_MAP) return "a key or value without a map in r1";
  }
  if (contract.result > BPFTIME_VM_RESULT_VALUE_OR_NULL) return "no such kind of result";
  if (contract.result == BPFTIME_VM_RESULT_VALUE_OR_NULL && args[0] != BPFTIME_VM_ARG_MAP) {
    return "the result is a value and r1 is no map";
  }
  return contract.name == nullptr ? "a contract has a name" : nullptr;
}

Contract contract_from(const bpftime_vm_contract& from) {
  Contract contract;
  contract.name = from.name;
  for (int i = 0; i < 5; ++i) {
    contract.args[i] =
        from.arguments[i] == BPFTIME_VM_ARG_NONE ? Arg::kNone : kArgs[from.arguments[i]];
  }
  contract.gives = kResults[from.result];
  contract.changes_map = from.changes_map != 0;
  return contract;
}

const Contract* find_contract(void* user, uint32_t id) {
  const auto* vm = static_cast<const bpftime_vm*>(user);
  if (vm->has_own_map_helpers && id >= 1 && id <= 3) return verify::contract_of(id);
  const auto found = vm->helpers.find(id);
  if (found == vm->helpers.end() || !found->second.contract) return nullptr;
  return &*found->second.contract;
}

verify::MapShape map_shape(void* user, uint32_t id) {
  const auto* vm = static_cast<const bpftime_vm*>(user);
  const auto found = vm->maps.find(id);
  verify::MapShape shape;
  if (found == vm->maps.end() || found->second.map.value_bytes == 0) return shape;
  const bpftime_vm_map& map = found->second.map;
  shape.type = map.array_entries != 0 ? BPF_MAP_TYPE_ARRAY : BPF_MAP_TYPE_HASH;
  shape.key_bytes = map.array_entries != 0 ? 4 : map.key_bytes;
  shape.value_bytes = map.value_bytes;
  shape.max_entries = map.array_entries;
  shape.flags = map.is_read_only != 0 ? BPF_F_RDONLY_PROG : 0;
  shape.name = found->second.name.c_str();
  const auto data = vm->data.find(id);
  shape.is_constant = data != vm->data.end() && data->second.is_constant;
  return shape;
}

bool constant_of(void* user, uint32_t id, uint64_t offset, uint32_t bytes, uint64_t* value) {
  const auto* vm = static_cast<const bpftime_vm*>(user);
  const auto found = vm->data.find(id);
  if (found == vm->data.end() || !found->second.is_constant || offset > found->second.bytes ||
      bytes > found->second.bytes - offset) {
    return false;
  }
  *value = 0;
  std::memcpy(value, reinterpret_cast<const uint8_t*>(found->second.words.data()) + offset, bytes);
  return true;
}

// The machine's own helpers. r1 is the address of a MachineMap.
constexpr uint64_t error(int errnum) { return static_cast<uint64_t>(-int64_t{errnum}); }

void* array_value(const bpftime_vm_map& map, uint64_t key) {
  uint32_t index = 0;
  std::memcpy(&index, reinterpret_cast<const void*>(key), sizeof index);
  if (index >= map.array_entries) return nullptr;
  return static_cast<uint8_t*>(map.values) + uint64_t{index} * map.value_stride;
}

uint64_t own_lookup(uint64_t r1, uint64_t key, uint64_t /*r3*/, uint64_t /*r4*/, uint64_t /*r5*/) {
  const bpftime_vm_map& map = reinterpret_cast<const MachineMap*>(r1)->map;
  void* value = nullptr;
  if (map.ops == nullptr) {
    value = array_value(map, key);
  } else if (map.ops->lookup != nullptr) {
    value = map.ops->lookup(map.handle, reinterpret_cast<const void*>(key));
  }
  return reinterpret_cast<uint64_t>(value);
}

uint64_t own_update(uint64_t r1, uint64_t key, uint64_t value, uint64_t flags, uint64_t /*r5*/) {
  const bpftime_vm_map& map = reinterpret_cast<const MachineMap*>(r1)->map;
  const auto* from = reinterpret_cast<const void*>(value);
  if (map.ops != nullptr) {
    if (map.ops->update == nullptr) return error(EOPNOTSUPP);
    return static_cast<uint64_t>(
        map.ops->update(map.handle, reinterpret_cast<const void*>(key), from, flags));
  }
  if (flags == BPF_NOEXIST) return error(EEXIST);
  void* to = array_value(map, key);
  if (to == nullptr || map.value_bytes == 0) return error(to == nullptr ? E2BIG : EOPNOTSUPP);
  std::memcpy(to, from, map.value_bytes);
  return 0;
}

uint64_t own_delete(uint64_t r1, uint64_t key, uint64_t /*r3*/, uint64_t /*r4*/, uint64_t /*r5*/) {
  const bpftime_vm_map& map = reinterpret_cast<const MachineMap*>(r1)->map;
  if (map.ops == nullptr) return error(EINVAL);
  if (map.ops->remove == nullptr) return error(EOPNOTSUPP);
  return static_cast<uint64_t>(map.ops->remove(map.handle, reinterpret_cast<const void*>(key)));
}

constexpr bpftime_vm_helper kOwn[] = {own_lookup, own_update, own_delete};

/// The verifier calls helpers bpf_NAME: those of the embedder are called NAME.
void name_helpers(const bpftime_vm* vm, std::string* text) {
  for (const auto& [id, helper] : vm->helpers) {
    if (!helper.contract) continue;
    const std::string name = std::string("bpf_") + helper.contract->name;
    for (size_t at = text->find(name); at != std::string::npos; at = text->find(name, at)) {
      text->erase(at, 4);
    }
  }
}

bool is_used(const bpftime_vm* vm, uint32_t map_id) {
  for (size_t i = 0; i + 1 < vm->slots.size(); ++i) {
    const isa::Insn insn = isa::decode(vm->slots[i]);
    if (!insn.is_lddw()) continue;
    if (insn.src != 0 && insn.src != isa::kPseudoFunc &&
        static_cast<uint32_t>(insn.imm) == map_id) {
      return true;
    }
    ++i;
  }
  return false;
}

int failed(bpftime_vm* vm, const char* why) {
  vm->error = why;
  return -EINVAL;
}

}  // namespace

void add_own_map_helpers(bpftime_vm* vm) {
  for (uint32_t id = 1; id <= 3; ++id) {
    vm->helpers[id].fn = kOwn[id - 1];
    vm->helper_set.set(id);
  }
  vm->has_own_map_helpers = true;
}

int judge(bpftime_vm* vm, std::span<const uint64_t> slots, uint32_t flags,
          const verify::DebugInfo& debug) {
  vm->outcome = {};
  vm->is_refused = false;
  if ((flags & BPFTIME_VM_UNVERIFIED) != 0) {
    ValidateOptions options;
    options.helpers = &vm->helper_set;
    const Verdict verdict = validate(slots, options);
    if (verdict) return 0;
    vm->outcome.errnum = EINVAL;
    vm->outcome.insn_index = verdict.insn_index;
    vm->outcome.reason = verdict.reason;
  } else {
    verify::Options options;
    options.helpers = &vm->helper_set;
    options.context = vm->context ? &vm->context->shape : nullptr;
    options.contracts = {find_contract, vm};
    options.maps = {map_shape, constant_of, vm};
    options.debug = debug;
    vm->outcome = verify::verify(slots, options);
    if (vm->outcome.ok()) return 0;
    name_helpers(vm, &vm->outcome.reason);
    name_helpers(vm, &vm->outcome.path);
  }
  const uint32_t at = vm->outcome.insn_index;
  const uint8_t opcode = at < slots.size() ? static_cast<uint8_t>(slots[at]) : 0;
  vm->refusal = {at, opcode, vm->outcome.reason.c_str(), vm->outcome.where.c_str(),
                 vm->outcome.path.c_str()};
  vm->is_refused = true;
  vm->error = "instruction " + std::to_string(at);
  if (!vm->outcome.where.empty()) vm->error += " (" + vm->outcome.where + ")";
  vm->error += ": " + vm->outcome.reason;
  return -vm->outcome.errnum;
}

}  // namespace bpftime

int bpftime_vm_register(bpftime_vm* vm, uint32_t id, bpftime_vm_helper fn,
                        const bpftime_vm_contract* contract) {
  using namespace bpftime;
  if (id >= BPFTIME_VM_HELPERS_MAX) return failed(vm, "helper id is not below 512");
  const char* fault = contract != nullptr ? contract_fault(*contract) : nullptr;
  if (fault != nullptr) return failed(vm, fault);
  if (id >= 1 && id <= 3 && vm->has_own_map_helpers) {
    for (uint32_t own = 1; own <= 3; ++own) {
      vm->helpers.erase(own);
      vm->helper_set.reset(own);
    }
    vm->has_own_map_helpers = false;
  }
  Helper& helper = vm->helpers[id];
  helper.fn = fn;
  helper.contract.reset();
  if (contract != nullptr) helper.contract = contract_from(*contract);
  vm->helper_set.set(id, fn != nullptr);
  return 0;
}

int bpftime_vm_set_context(bpftime_vm* vm, const bpftime_vm_context* context) {
  using namespace bpftime;
  if (context == nullptr) {
    vm->context.reset();
    return 0;
  }
  MachineContext made;
  for (uint32_t i = 0; i < context->field_count; ++i) {
    const bpftime_vm_field& field = context->fields[i];
    if (field.bytes == 0 || field.off > context->bytes ||
        field.bytes > context->bytes - field.off) {
      return failed(vm, "a field is not within its context");
    }
    const auto access =
        field.is_writable != 0 ? verify::ContextField::kReadWrite : verify::ContextField::kRead;
    made.fields.push_back({field.off, field.bytes, access, verify::ContextField::kNumber});
  }
  made.bytes = context->bytes;
  made.shape.name = context->name != nullptr ? context->name : "the context";
  vm->context = std::move(made);
  vm->context->shape.fields = vm->context->fields;
  return 0;
}

int bpftime_vm_register_map(bpftime_vm* vm, uint32_t map_id, const bpftime_vm_map* map) {
  using namespace bpftime;
  if (map->handle == nullptr) return failed(vm, "map has no handle");
  if (map_id >= kDataIds) return failed(vm, "map id is not below 2^31");
  if (map->array_entries != 0 && (map->values == nullptr || map->value_stride == 0)) {
    return failed(vm, "array has no values");
  }
  if (map->array_entries != 0 && map->value_bytes > map->value_stride) {
    return failed(vm, "values of the array overlap");
  }
  if (is_used(vm, map_id)) {
    vm->error = "the loaded program uses the map (register maps first)";
    return -EBUSY;
  }
  MachineMap& kept = vm->maps[map_id];
  kept.map = *map;
  kept.name = map->name != nullptr ? map->name : "map " + std::to_string(map_id);
  kept.map.name = nullptr;
  return 0;
}

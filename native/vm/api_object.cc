// SPDX-License-Identifier: MIT
// bpftime_vm_load_object(): data sections become maps of the machine.
#include <cerrno>
#include <cstring>

#include "elf_object.h"
#include "machine.h"

namespace bpftime {
namespace {

int64_t helper_named(const bpftime_vm* vm, const std::string& name) {
  for (const auto& [id, helper] : vm->helpers) {
    if (helper.contract && name == helper.contract->name) return id;
  }
  return -1;
}

int64_t map_named(const bpftime_vm* vm, const std::string& name) {
  for (const auto& [id, map] : vm->maps) {
    if (map.name == name) return id;
  }
  return -1;
}

void add_data(bpftime_vm* vm, uint32_t id, const ObjectData& from) {
  const auto bytes = static_cast<uint32_t>(from.bytes.size());
  MachineData data{std::pmr::vector<uint64_t>((bytes + 7) / 8, 0, &vm->memory), bytes,
                   from.is_constant};
  std::memcpy(data.words.data(), from.bytes.data(), bytes);
  MachineData& kept = vm->data.emplace(id, std::move(data)).first->second;
  MachineMap& map = vm->maps[id];
  map.name = from.name;
  map.map.handle = kept.words.data();
  map.map.values = kept.words.data();
  map.map.array_entries = 1;
  map.map.value_stride = (bytes + 7) & ~7u;
  map.map.value_bytes = bytes;
  map.map.is_read_only = from.is_constant ? 1 : 0;
}

void drop_data(bpftime_vm* vm, uint32_t first) {
  const auto in_range = [=](const auto& entry) {
    return entry.first >= first && entry.first - first < kDataIdsOfObject;
  };
  std::erase_if(vm->maps, in_range);
  std::erase_if(vm->data, in_range);
}

}  // namespace
}  // namespace bpftime

int bpftime_vm_load_object(bpftime_vm* vm, const void* object, size_t object_bytes,
                           const char* program, uint32_t flags) {
  using namespace bpftime;
  const uint32_t id = vm->data_id == kDataIds ? kDataIds + kDataIdsOfObject : kDataIds;
  const ObjectNames names{[vm](const std::string& name) { return helper_named(vm, name); },
                          [vm](const std::string& name) { return map_named(vm, name); }, id};
  std::string why;
  const ObjectProgram made = program_of_elf({static_cast<const uint8_t*>(object), object_bytes},
                                            program != nullptr ? program : "", names, why);
  if (made.slots.empty()) {
    vm->is_refused = false;
    vm->error = "the object cannot be used: " + why;
    return -ENOEXEC;
  }
  for (uint32_t i = 0; i < made.data.size(); ++i) add_data(vm, id + i, made.data[i]);
  const int status = load_slots(vm, made.slots, flags, {made.btf, {}, made.line_info});
  if (status != 0) drop_data(vm, id);
  if (status == 0) vm->data_id = id;
  return status;
}

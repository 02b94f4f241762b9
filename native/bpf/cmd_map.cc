// SPDX-License-Identifier: MIT
// bpf(2) on maps.
#include <cerrno>
#include <cstring>
#include <vector>

#include "../vm/rt/bloom.h"
#include "../vm/rt/map.h"
#include "commands.h"
#include "objects.h"
#include "prog_array.h"

namespace bpftime {

namespace {

constexpr uint32_t kKeptFlags = BPF_F_RDONLY | BPF_F_WRONLY;

template <typename T = void>
T* user_ptr(uint64_t value) {
  return reinterpret_cast<T*>(value);
}

// The map that a command may read or write, or the reason why not.
struct Target {
  std::shared_ptr<MapObject> map;
  long error = 0;
};

Target open_target(int fd, bool writes) {
  Target target{map_of_fd(fd), 0};
  if (target.map == nullptr) {
    target.error = -EBADF;
    return target;
  }
  const uint32_t refused = writes ? BPF_F_RDONLY : BPF_F_WRONLY;
  if ((target.map->view.map_flags & kKeptFlags & refused) != 0) target.error = -EPERM;
  if (writes && target.map->frozen) target.error = -EPERM;
  return target;
}

bool is_nested(uint32_t type) {
  return type == BPF_MAP_TYPE_ARRAY_OF_MAPS || type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

/// Values are numbers that mean something here only.
bool is_reference(uint32_t type) { return is_nested(type) || type == BPF_MAP_TYPE_PROG_ARRAY; }

/// One level, and nothing whose meaning is not in its storage.
bool may_be_inner(uint32_t type) { return !is_reference(type); }

/// Entries of an array of maps or programs can be taken out, unlike those of an array.
long empty_place(const Target& target, const BpfCall& call) {
  if (rt_map_is_programs(&target.map->view) != 0) {
    return take_program(target.map.get(), user_ptr(call.attr.key));
  }
  const vm_map& view = target.map->view;
  const auto* key = user_ptr<const uint32_t>(call.attr.key);
  if (*key >= view.max_entries) return -E2BIG;
  uint32_t number = 0;
  if (rt_map_read(&view, key, &number) != 0 || number == 0) return -ENOENT;
  number = 0;
  return rt_map_write(&view, key, &number, BPF_ANY);
}

/// Puts the id of the program whose number was read in the number's place.
long program_id(const MapObject& map, const BpfCall& call) {
  auto* value = user_ptr<uint32_t>(call.attr.value);
  const std::shared_ptr<ProgObject> program = program_at(map, *value);
  *value = program != nullptr ? program->id : 0;
  return program != nullptr ? 0 : -ENOENT;
}

/// What the kernel says to those who delete by key, or ask for the next one, where there is none.
long keyless_refusal(const vm_map& view) {
  return view.type == BPF_MAP_TYPE_BLOOM_FILTER ? -EOPNOTSUPP : -EINVAL;
}

}  // namespace

long cmd_map_create(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  if (attr.map_ifindex != 0) return -EINVAL;
  if (attr.map_type == BPF_MAP_TYPE_TASK_STORAGE && attr.max_entries != 0) return -EINVAL;
  const bool is_bloom = attr.map_type == BPF_MAP_TYPE_BLOOM_FILTER;
  if ((attr.map_extra & ~uint64_t{is_bloom ? RT_BLOOM_HASHES_MAX : 0}) != 0) return -EINVAL;
  MapSpec spec;
  if (is_nested(attr.map_type)) {
    spec.inner_like = map_of_fd(static_cast<int>(attr.inner_map_fd));
    if (spec.inner_like == nullptr) return -EBADF;
    if (!may_be_inner(spec.inner_like->view.type)) return -ENOTSUP;
  } else if (attr.inner_map_fd != 0) {
    return -EINVAL;
  }
  spec.bloom_hashes = static_cast<uint32_t>(attr.map_extra);
  const std::string name(attr.map_name, strnlen(attr.map_name, sizeof(attr.map_name)));
  spec.name = name.c_str();
  spec.type = attr.map_type;
  spec.key_size = attr.key_size;
  spec.value_size = attr.value_size;
  spec.max_entries = attr.max_entries;
  spec.flags = attr.map_flags;
  if (attr.btf_key_type_id != 0 || attr.btf_value_type_id != 0) {
    spec.btf = btf_of_fd(static_cast<int>(attr.btf_fd));
    if (spec.btf == nullptr) return -EBADF;
    spec.btf_key_type = attr.btf_key_type_id;
    spec.btf_value_type = attr.btf_value_type_id;
  }
  Result<std::shared_ptr<MapObject>> map = create_map(spec);
  if (!map) return -map.error().errnum;
  keep_for_descriptors(*map);
  return dup_for_user((*map)->storage.get());
}

long cmd_map_lookup(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), false);
  if (target.error != 0) return target.error;
  if (call.attr.flags != 0) return -EINVAL;
  if (rt_map_is_keyless(&target.map->view)) {
    if (call.attr.key != 0) return -EINVAL;
    return rt_map_peek(&target.map->view, user_ptr(call.attr.value));
  }
  const long ret =
      rt_map_read(&target.map->view, user_ptr(call.attr.key), user_ptr(call.attr.value));
  if (ret != 0) return ret;
  if (rt_map_is_programs(&target.map->view) != 0) return program_id(*target.map, call);
  if (!rt_map_is_nested(&target.map->view)) return ret;
  auto* value = user_ptr<uint32_t>(call.attr.value);
  *value = inner_map_id(*target.map, *value);
  return *value != 0 ? 0 : -ENOENT;
}

long cmd_map_update(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), true);
  if (target.error != 0) return target.error;
  if (rt_map_is_keyless(&target.map->view)) {
    if (call.attr.key != 0) return -EINVAL;
    return rt_map_push(&target.map->view, user_ptr(call.attr.value), call.attr.flags);
  }
  if (rt_map_is_nested(&target.map->view)) {
    const auto inner = map_of_fd(*user_ptr<const int32_t>(call.attr.value));
    if (inner == nullptr) return -EBADF;
    return put_inner_map(target.map.get(), user_ptr(call.attr.key), inner, call.attr.flags);
  }
  if (rt_map_is_programs(&target.map->view) != 0) {
    const auto program = prog_of_fd(*user_ptr<const int32_t>(call.attr.value));
    if (program == nullptr) return -EBADF;
    return put_program(target.map.get(), user_ptr(call.attr.key), program, call.attr.flags);
  }
  return rt_map_write(&target.map->view, user_ptr(call.attr.key), user_ptr(call.attr.value),
                      call.attr.flags);
}

long cmd_map_delete(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), true);
  if (target.error != 0) return target.error;
  if (rt_map_is_keyless(&target.map->view)) return keyless_refusal(target.map->view);
  const uint32_t type = target.map->view.type;
  if (type == BPF_MAP_TYPE_ARRAY_OF_MAPS || type == BPF_MAP_TYPE_PROG_ARRAY)
    return empty_place(target, call);
  return rt_map_delete(&target.map->view, user_ptr(call.attr.key));
}

long cmd_map_next_key(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), false);
  if (target.error != 0) return target.error;
  if (rt_map_is_keyless(&target.map->view)) return keyless_refusal(target.map->view);
  return rt_map_next_key(&target.map->view, user_ptr(call.attr.key), user_ptr(call.attr.next_key));
}

long cmd_map_lookup_and_delete(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), true);
  if (target.error != 0) return target.error;
  const uint32_t type = target.map->view.type;
  if (type == BPF_MAP_TYPE_QUEUE || type == BPF_MAP_TYPE_STACK) {
    if (call.attr.key != 0 || call.attr.flags != 0) return -EINVAL;
    return rt_map_pop(&target.map->view, user_ptr(call.attr.value));
  }
  if (!rt_map_is_hash(&target.map->view) || is_nested(type)) return -EOPNOTSUPP;
  const long ret =
      rt_map_read(&target.map->view, user_ptr(call.attr.key), user_ptr(call.attr.value));
  return ret != 0 ? ret : rt_map_delete(&target.map->view, user_ptr(call.attr.key));
}

long cmd_map_freeze(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), false);
  if (target.map == nullptr) return -EBADF;
  return target.map->frozen.exchange(true) ? -EBUSY : 0;
}

// Batches walk the storage in order; the position is a u32, as in the kernel.
static long lookup_batch(const BpfCall& call, bool deletes) {
  const auto& batch = call.attr.batch;
  const Target target = open_target(static_cast<int>(batch.map_fd), deletes);
  if (target.error != 0) return target.error;
  const vm_map& view = target.map->view;
  if (rt_map_is_keyless(&view) || is_reference(view.type)) return -EOPNOTSUPP;
  if (batch.elem_flags != 0 || batch.flags != 0) return -EINVAL;
  if (deletes && !rt_map_is_hash(&view)) return -EOPNOTSUPP;
  uint64_t cursor = 0;
  if (batch.in_batch != 0) cursor = *user_ptr<const uint32_t>(batch.in_batch);
  auto* keys = user_ptr<uint8_t>(batch.keys);
  auto* values = user_ptr<uint8_t>(batch.values);
  const uint64_t value_bytes = rt_map_value_bytes(&view);
  uint32_t count = 0;
  long ret = 0;
  while (count < batch.count) {
    uint8_t* key = keys + uint64_t{count} * view.key_size;
    ret = rt_map_iterate(&view, &cursor, key, values + count * value_bytes);
    if (ret != 0) break;
    if (deletes) rt_map_delete(&view, key);
    count++;
  }
  call.user_attr->batch.count = count;
  if (batch.out_batch != 0) {
    *user_ptr<uint32_t>(batch.out_batch) = static_cast<uint32_t>(cursor);
  }
  return ret;
}

long cmd_map_lookup_batch(const BpfCall& call) { return lookup_batch(call, false); }
long cmd_map_lookup_and_delete_batch(const BpfCall& call) { return lookup_batch(call, true); }

static long write_batch(const BpfCall& call, bool deletes) {
  const auto& batch = call.attr.batch;
  const Target target = open_target(static_cast<int>(batch.map_fd), true);
  if (target.error != 0) return target.error;
  const vm_map& view = target.map->view;
  if (rt_map_is_keyless(&view) || is_reference(view.type)) return -EOPNOTSUPP;
  const auto* keys = user_ptr<const uint8_t>(batch.keys);
  const auto* values = user_ptr<const uint8_t>(batch.values);
  const uint64_t value_bytes = rt_map_value_bytes(&view);
  uint32_t done = 0;
  long ret = 0;
  for (; done < batch.count && ret == 0; done++) {
    const uint8_t* key = keys + uint64_t{done} * view.key_size;
    ret = deletes ? rt_map_delete(&view, key)
                  : rt_map_write(&view, key, values + done * value_bytes, batch.elem_flags);
    if (ret != 0) break;
  }
  call.user_attr->batch.count = done;
  return ret;
}

long cmd_map_update_batch(const BpfCall& call) { return write_batch(call, false); }
long cmd_map_delete_batch(const BpfCall& call) { return write_batch(call, true); }

}  // namespace bpftime

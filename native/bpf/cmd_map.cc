// SPDX-License-Identifier: MIT
// bpf(2) on maps.
#include <cerrno>
#include <cstring>
#include <vector>

#include "../vm/rt/map.h"
#include "commands.h"
#include "objects.h"

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

}  // namespace

long cmd_map_create(const BpfCall& call) {
  const bpf_attr& attr = call.attr;
  if (attr.inner_map_fd != 0 || attr.map_ifindex != 0 || attr.map_extra != 0) return -EINVAL;
  MapSpec spec;
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
  return rt_map_read(&target.map->view, user_ptr(call.attr.key), user_ptr(call.attr.value));
}

long cmd_map_update(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), true);
  if (target.error != 0) return target.error;
  return rt_map_write(&target.map->view, user_ptr(call.attr.key), user_ptr(call.attr.value),
                      call.attr.flags);
}

long cmd_map_delete(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), true);
  if (target.error != 0) return target.error;
  return rt_map_delete(&target.map->view, user_ptr(call.attr.key));
}

long cmd_map_next_key(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), false);
  if (target.error != 0) return target.error;
  return rt_map_next_key(&target.map->view, user_ptr(call.attr.key), user_ptr(call.attr.next_key));
}

long cmd_map_lookup_and_delete(const BpfCall& call) {
  const Target target = open_target(static_cast<int>(call.attr.map_fd), true);
  if (target.error != 0) return target.error;
  if (!rt_map_is_hash(&target.map->view)) return -EOPNOTSUPP;
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

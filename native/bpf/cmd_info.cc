// SPDX-License-Identifier: MIT
// bpf(2): what exists and what it looks like.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "commands.h"
#include "objects.h"

namespace bpftime {

namespace {

// Hands a struct to the caller, cut to the size that it knows.
template <typename Info>
long put_info(const BpfCall& call, const Info& info) {
  const uint32_t size = std::min<uint32_t>(call.attr.info.info_len, sizeof(info));
  std::memcpy(reinterpret_cast<void*>(call.attr.info.info), &info, size);
  call.user_attr->info.info_len = size;
  return 0;
}

// What the caller filled in: lengths and addresses of further buffers.
template <typename Info>
Info get_info(const BpfCall& call) {
  Info info;
  std::memset(&info, 0, sizeof(info));
  std::memcpy(&info, reinterpret_cast<const void*>(call.attr.info.info),
              std::min<uint32_t>(call.attr.info.info_len, sizeof(info)));
  return info;
}

void put_name(char (&out)[BPF_OBJ_NAME_LEN], const std::string& name) {
  const size_t size = std::min(name.size(), sizeof(out) - 1);
  std::memcpy(out, name.data(), size);
}

long map_info(const BpfCall& call, const MapObject& map) {
  bpf_map_info info;
  std::memset(&info, 0, sizeof(info));
  info.type = map.view.type;
  info.id = map.id;
  info.key_size = map.view.key_size;
  info.value_size = map.view.value_size;
  info.max_entries = map.view.max_entries;
  info.map_flags = map.view.map_flags;
  if (info.type == BPF_MAP_TYPE_BLOOM_FILTER) info.map_extra = map.view.elem_stride;
  put_name(info.name, map.name);
  info.btf_id = map.btf != nullptr ? map.btf->id : 0;
  info.btf_key_type_id = map.btf_key_type;
  info.btf_value_type_id = map.btf_value_type;
  return put_info(call, info);
}

long prog_info(const BpfCall& call, const ProgObject& prog) {
  const auto asked = get_info<bpf_prog_info>(call);
  bpf_prog_info info;
  std::memset(&info, 0, sizeof(info));
  info.type = prog.type;
  info.id = prog.id;
  info.jited_prog_len = static_cast<uint32_t>(prog.image.text.size());
  info.xlated_prog_len = static_cast<uint32_t>(prog.insns.size() * sizeof(uint64_t));
  info.xlated_prog_insns = asked.xlated_prog_insns;
  if (asked.xlated_prog_insns != 0) {
    std::memcpy(reinterpret_cast<void*>(asked.xlated_prog_insns), prog.insns.data(),
                std::min(asked.xlated_prog_len, info.xlated_prog_len));
  }
  info.nr_map_ids = static_cast<uint32_t>(prog.maps.size());
  info.map_ids = asked.map_ids;
  if (asked.map_ids != 0) {
    auto* ids = reinterpret_cast<uint32_t*>(asked.map_ids);
    for (uint32_t i = 0; i < std::min(asked.nr_map_ids, info.nr_map_ids); i++) {
      ids[i] = prog.maps[i]->id;
    }
  }
  put_name(info.name, prog.name);
  info.gpl_compatible = 1;
  info.btf_id = prog.btf != nullptr ? prog.btf->id : 0;
  return put_info(call, info);
}

long btf_info(const BpfCall& call, const BtfObject& btf) {
  bpf_btf_info info = get_info<bpf_btf_info>(call);
  if (info.btf != 0) {
    std::memcpy(reinterpret_cast<void*>(info.btf), btf.data.data(),
                std::min<size_t>(info.btf_size, btf.data.size()));
  }
  info.btf_size = static_cast<uint32_t>(btf.data.size());
  info.id = btf.id;
  info.name_len = 0;
  info.kernel_btf = 0;
  return put_info(call, info);
}

long put_next_id(const BpfCall& call, ObjectKind kind) {
  const uint32_t id = next_id(kind, call.attr.start_id);
  if (id == 0) return -ENOENT;
  call.user_attr->next_id = id;
  return 0;
}

}  // namespace

long cmd_info_by_fd(const BpfCall& call) {
  const auto fd = static_cast<int>(call.attr.info.bpf_fd);
  if (call.attr.info.info == 0) return -EFAULT;
  if (const auto map = map_of_fd(fd)) return map_info(call, *map);
  if (const auto prog = prog_of_fd(fd)) return prog_info(call, *prog);
  if (const auto btf = btf_of_fd(fd)) return btf_info(call, *btf);
  return -EBADF;
}

long cmd_prog_next_id(const BpfCall& call) { return put_next_id(call, ObjectKind::kProg); }
long cmd_map_next_id(const BpfCall& call) { return put_next_id(call, ObjectKind::kMap); }
long cmd_btf_next_id(const BpfCall& call) { return put_next_id(call, ObjectKind::kBtf); }

long cmd_prog_fd_by_id(const BpfCall& call) {
  const auto prog = find_prog(call.attr.prog_id);
  return prog != nullptr ? dup_for_user(prog->text.get()) : -ENOENT;
}
long cmd_map_fd_by_id(const BpfCall& call) {
  const auto map = find_map(call.attr.map_id);
  return map != nullptr ? dup_for_user(map->storage.get()) : -ENOENT;
}
long cmd_btf_fd_by_id(const BpfCall& call) {
  const auto btf = find_btf(call.attr.btf_id);
  return btf != nullptr ? dup_for_user(btf->fd.get()) : -ENOENT;
}

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// `syscall`, exported: bpf(2) is answered here, every other number goes to the kernel unchanged.
// libbpf issues all its bpf(2) calls through libc's function of this name and binds to ours: in the
// addon because of RTLD_DEEPBIND, in an executable because its symbols come first.
#include "syscall.h"

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>

#include "../base/raw_syscall.h"
#include "commands.h"

namespace bpftime {

namespace {

thread_local uint64_t calls_seen = 0;

struct Entry {
  uint32_t cmd;
  BpfCommand run;
};

constexpr Entry kCommands[] = {
    {BPF_MAP_CREATE, cmd_map_create},
    {BPF_MAP_LOOKUP_ELEM, cmd_map_lookup},
    {BPF_MAP_UPDATE_ELEM, cmd_map_update},
    {BPF_MAP_DELETE_ELEM, cmd_map_delete},
    {BPF_MAP_GET_NEXT_KEY, cmd_map_next_key},
    {BPF_MAP_LOOKUP_AND_DELETE_ELEM, cmd_map_lookup_and_delete},
    {BPF_MAP_FREEZE, cmd_map_freeze},
    {BPF_MAP_LOOKUP_BATCH, cmd_map_lookup_batch},
    {BPF_MAP_LOOKUP_AND_DELETE_BATCH, cmd_map_lookup_and_delete_batch},
    {BPF_MAP_UPDATE_BATCH, cmd_map_update_batch},
    {BPF_MAP_DELETE_BATCH, cmd_map_delete_batch},
    {BPF_PROG_LOAD, cmd_prog_load},
    {BPF_PROG_TEST_RUN, cmd_prog_test_run},
    {BPF_PROG_BIND_MAP, cmd_prog_bind_map},
    {BPF_BTF_LOAD, cmd_btf_load},
    {BPF_LINK_CREATE, cmd_link_create},
    {BPF_OBJ_GET_INFO_BY_FD, cmd_info_by_fd},
    {BPF_PROG_GET_NEXT_ID, cmd_prog_next_id},
    {BPF_MAP_GET_NEXT_ID, cmd_map_next_id},
    {BPF_BTF_GET_NEXT_ID, cmd_btf_next_id},
    {BPF_PROG_GET_FD_BY_ID, cmd_prog_fd_by_id},
    {BPF_MAP_GET_FD_BY_ID, cmd_map_fd_by_id},
    {BPF_BTF_GET_FD_BY_ID, cmd_btf_fd_by_id},
    // Known, and not offered: pinning and attaching happen in the file system.
    {BPF_OBJ_PIN, cmd_unsupported},
    {BPF_OBJ_GET, cmd_unsupported},
    {BPF_PROG_ATTACH, cmd_unsupported},
    {BPF_PROG_DETACH, cmd_unsupported},
    {BPF_RAW_TRACEPOINT_OPEN, cmd_unsupported},
    {BPF_LINK_UPDATE, cmd_unsupported},
    {BPF_ITER_CREATE, cmd_unsupported},
    {BPF_LINK_DETACH, cmd_unsupported},
};

}  // namespace

long bpf_command(uint32_t cmd, void* user_attr, uint32_t size) {
  calls_seen++;
  if (user_attr == nullptr) return -EFAULT;
  if (size > 4096) return -E2BIG;
  // What a caller newer than us sends must be zero, as in the kernel.
  const auto* bytes = static_cast<const uint8_t*>(user_attr);
  for (uint32_t i = sizeof(bpf_attr); i < size; i++) {
    if (bytes[i] != 0) return -E2BIG;
  }
  bpf_attr attr;
  std::memset(&attr, 0, sizeof(attr));
  std::memcpy(&attr, user_attr, std::min<size_t>(size, sizeof(attr)));
  for (const Entry& entry : kCommands) {
    if (entry.cmd == cmd) return entry.run({attr, static_cast<bpf_attr*>(user_attr), size});
  }
  return -EINVAL;
}

bool libbpf_is_ours() {
  const uint64_t before = calls_seen;
  uint32_t id = 0;
  bpf_prog_get_next_id(UINT32_MAX, &id);  // harmless wherever it lands
  return calls_seen != before;
}

}  // namespace bpftime

extern "C" __attribute__((visibility("default"))) long syscall(long nr, ...) noexcept {
  va_list args;
  va_start(args, nr);
  long a[6];
  for (long& arg : a) arg = va_arg(args, long);
  va_end(args);
  const long ret = nr == __NR_bpf ? bpftime::bpf_command(static_cast<uint32_t>(a[0]),
                                                         reinterpret_cast<void*>(a[1]),
                                                         static_cast<uint32_t>(a[2]))
                                  : bpftime::raw_syscall(nr, a);
  if (ret >= 0 || ret < -4095) return ret;
  errno = static_cast<int>(-ret);
  return -1;
}

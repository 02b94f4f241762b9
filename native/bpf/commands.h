// SPDX-License-Identifier: MIT
// The commands of bpf(2), one function each: kernel semantics, a negative errno on failure, a
// descriptor or 0 otherwise. syscall.cc dispatches to them by table.
#pragma once

#include <linux/bpf.h>

#include <cstdint>

namespace bpftime {

/// `attr` is a zero-extended private copy; `user_attr` is the caller's, for fields that are written
/// back (null pointers never occur), `size` what the caller said it has.
struct BpfCall {
  bpf_attr& attr;
  bpf_attr* user_attr;
  uint32_t size;
};

using BpfCommand = long (*)(const BpfCall& call);

long cmd_map_create(const BpfCall& call);
long cmd_map_lookup(const BpfCall& call);
long cmd_map_update(const BpfCall& call);
long cmd_map_delete(const BpfCall& call);
long cmd_map_next_key(const BpfCall& call);
long cmd_map_lookup_and_delete(const BpfCall& call);
long cmd_map_freeze(const BpfCall& call);
long cmd_map_lookup_batch(const BpfCall& call);
long cmd_map_lookup_and_delete_batch(const BpfCall& call);
long cmd_map_update_batch(const BpfCall& call);
long cmd_map_delete_batch(const BpfCall& call);

long cmd_prog_load(const BpfCall& call);
long cmd_prog_test_run(const BpfCall& call);
long cmd_prog_bind_map(const BpfCall& call);
long cmd_btf_load(const BpfCall& call);
long cmd_link_create(const BpfCall& call);

long cmd_info_by_fd(const BpfCall& call);
long cmd_prog_next_id(const BpfCall& call);
long cmd_map_next_id(const BpfCall& call);
long cmd_btf_next_id(const BpfCall& call);
long cmd_prog_fd_by_id(const BpfCall& call);
long cmd_map_fd_by_id(const BpfCall& call);
long cmd_btf_fd_by_id(const BpfCall& call);
long cmd_unsupported(const BpfCall& call);

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// Making and finding eBPF objects by descriptor; registry.h is what the rest of the daemon sees.
//
// A descriptor of a map, program or BTF is a descriptor of its memfd: objects are recognised by
// inode, so dup and close behind our back (libbpf does both) cannot confuse anything.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "registry.h"

namespace bpftime {

/// Keeps alive what bpf(2) creates on this thread while it exists. Objects made outside of a
/// session live until the process ends: nobody can see the last close of a memfd.
class LoadSession {
 public:
  LoadSession();
  ~LoadSession();
  LoadSession(const LoadSession&) = delete;
  LoadSession& operator=(const LoadSession&) = delete;

 private:
  friend void keep_for_descriptors(std::shared_ptr<void> object);
  std::vector<std::shared_ptr<void>> kept_;
  LoadSession* outer_;
};
/// The caller of bpf(2) gets a descriptor of this object: it must stay.
void keep_for_descriptors(std::shared_ptr<void> object);

struct ProgSpec {
  std::string name;
  uint32_t type = 0;
  ProgRole role = ProgRole::kProbe;
  std::span<const uint64_t> insns;  // as bpf(2) gets them: map descriptors in lddw
  std::span<const int32_t> fd_array;
  std::shared_ptr<BtfObject> btf;
  std::vector<uint8_t> func_info, line_info;
};

/// Translates map references, verifies and compiles. A refusal leaves in `log` the path that led
/// there and, last, "insn N: reason".
Result<std::shared_ptr<ProgObject>> create_prog(const ProgSpec& spec, std::string& log);
/// A program that was compiled before, over maps that it names by id; it has no bytecode.
Result<std::shared_ptr<ProgObject>> create_compiled_prog(
    const ProgSpec& spec, ProgramImage image, std::vector<std::shared_ptr<MapObject>> maps);
Result<std::shared_ptr<BtfObject>> create_btf(std::span<const uint8_t> data);

/// Null: not one of ours, or of another kind.
std::shared_ptr<MapObject> map_of_fd(int fd);
std::shared_ptr<ProgObject> prog_of_fd(int fd);
std::shared_ptr<BtfObject> btf_of_fd(int fd);
std::shared_ptr<BtfObject> find_btf(uint32_t id);

enum class ObjectKind : uint8_t { kMap, kProg, kBtf };
/// Smallest live id above `after`; 0 if there is none.
uint32_t next_id(ObjectKind kind, uint32_t after);

/// Puts a map into a map of maps. EINVAL: it is not like the one that was made for; else as
/// rt_map_write.
long put_inner_map(MapObject* outer, const void* key, const std::shared_ptr<MapObject>& inner,
                   uint64_t flags);
/// What a map of maps holds under a number that was read from its storage: an id, or 0.
uint32_t inner_map_id(const MapObject& outer, uint32_t number);

/// A descriptor of the same file for a caller of bpf(2), or a negative errno.
int dup_for_user(int fd);

/// CPUs that values of per-CPU maps are kept for; what libbpf_num_possible_cpus says.
uint32_t possible_cpu_count();

}  // namespace bpftime

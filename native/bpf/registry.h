// SPDX-License-Identifier: MIT
// The daemon's eBPF objects: maps and programs by id, shared by the bpf(2) front (libbpf), the
// attach engine (native/target) and the file system's readers. Thread safe.
//
// Must not know of processes, hooks or files: those hold shared_ptrs to what they use.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../abi/map.h"
#include "../base/result.h"
#include "../base/scoped_fd.h"
#include "../vm/image.h"

namespace bpftime {

struct BtfObject;
struct ProgObject;

/// One eBPF map. `view.base` is the daemon's own mapping of the storage memfd.
struct MapObject {
  uint32_t id = 0;
  std::string name;
  vm_map view{};
  ScopedFd storage;  // memfd, sealed against resizing; targets get it read-write
  uint32_t btf_key_type = 0, btf_value_type = 0;  // type ids in the object's BTF; 0 = none
  std::shared_ptr<BtfObject> btf;                 // what the two refer to; may be null
  std::atomic<bool> frozen = false;               // bpf(2) may not change it any more
  std::vector<uint8_t> initial;  // global variables: what the object file said they begin with
  // Of a map of maps: what each inner map has to be like, and those that were ever put in. A value
  // in the storage is a place in `inner`, from 1 on; places are never used for another map.
  std::shared_ptr<MapObject> inner_like;
  std::vector<std::shared_ptr<MapObject>> inner;
  // Of a program array: the kind of the programs (0: none yet), and those that may be in it; see
  // prog_array.h. They are kept by others: they keep the map.
  uint32_t prog_type = 0;
  uint32_t prog_role = 0;  // ProgRole
  std::vector<std::weak_ptr<ProgObject>> programs;
  mutable std::mutex inner_mutex;  // of the five above
  ~MapObject();
};

/// Type information as it was loaded.
struct BtfObject {
  uint32_t id = 0;
  std::vector<uint8_t> data;
  ScopedFd fd;  // memfd with the same bytes
  ~BtfObject();
};

/// What a program is attached as. Of kReplace the result is the function's, or, if it calls
/// bpf_override_return anywhere, the one given there, and the function runs where it gives none.
enum class ProgRole : uint8_t { kProbe, kReplace };
/// As bpf(2) has it: an expected_attach_type of ours (the kernel's are small numbers).
constexpr uint32_t kAttachReplace = 0x42465201;

/// One loaded program: verified, compiled, immutable.
struct ProgObject {
  uint32_t id = 0;
  std::string name;
  uint32_t type = 0;            // BPF_PROG_TYPE_*
  std::vector<uint64_t> insns;  // final bytecode, raw 8-byte slots, map fds replaced by map ids
  ProgramImage image;
  ScopedFd text;  // memfd holding image.text, opened read-only: mapped R-X in targets
  // All maps that image.got names, then bound ones, and the inner maps of maps of maps.
  std::vector<std::shared_ptr<MapObject>> maps;
  // What was in each map of maps, by its id, when the program was loaded: what it can reach.
  std::map<uint32_t, std::vector<std::shared_ptr<MapObject>>> inner;
  std::string section;  // SEC(), when libbpf loaded it for us
  ProgRole role = ProgRole::kProbe;
  bool overrides = false;                     // calls bpf_override_return somewhere
  std::shared_ptr<BtfObject> btf;             // what the two below refer to; may be null
  std::vector<uint8_t> func_info, line_info;  // struct bpf_func_info[], struct bpf_line_info[]
  ~ProgObject();
};

struct MapSpec {
  uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0, flags = 0;
  const char* name = "";
  uint32_t btf_key_type = 0, btf_value_type = 0;
  std::shared_ptr<BtfObject> btf = nullptr;
  std::shared_ptr<MapObject> inner_like = nullptr;  // of a map of maps
  uint32_t bloom_hashes = 0;  // of a bloom filter; 0: as many as the kernel takes
};

/// Creates a map that no bpf(2) descriptor refers to (the attach engine's log ring). It lives as
/// long as the pointer. EINVAL, E2BIG, ENOMEM.
Result<std::shared_ptr<MapObject>> create_map(const MapSpec& spec);

/// A map over storage that another daemon made for the same spec, with what is in it. EINVAL: it is
/// of another size.
Result<std::shared_ptr<MapObject>> adopt_map(const MapSpec& spec, ScopedFd storage);

/// A map's view as a program gets it: the map's own, and behind that of a map of maps those of its
/// inner maps. `base` of each is the daemon's. That of a program array says how many words have to
/// lie behind it: prog_array.h.
std::vector<vm_map> views_of(const ProgObject& prog, const MapObject& map);

std::shared_ptr<MapObject> find_map(uint32_t id);
std::shared_ptr<ProgObject> find_prog(uint32_t id);

}  // namespace bpftime

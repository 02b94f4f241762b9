// SPDX-License-Identifier: MIT
// A program of an eBPF object file with its maps, data and line information, for machines of the
// library (api.cc). Hostile files yield a sentence. CO-RE and what else needs the kernel's types is
// libbpf's work: the daemon's objects go through it (native/bpf/loader.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "elf_text.h"

namespace bpftime {

/// A section of data: one value of an array.
struct ObjectData {
  std::string name;
  std::vector<uint8_t> bytes;
  bool is_constant = false;
};

struct ObjectProgram {
  std::vector<uint64_t> slots;
  std::vector<ObjectData> data;    // map ids are ObjectNames::data_id + index
  std::vector<uint8_t> btf;        // section .BTF as it is
  std::vector<uint8_t> line_info;  // struct bpf_line_info[], by slot
};

struct ObjectNames {
  HelperByName helper;  // of functions that are declared and not defined
  HelperByName map;     // ids of maps
  uint32_t data_id = 0;
};

/// The program whose function or section is `wanted` ("": the first one outside of .text). No
/// slots, and `why` has a sentence, if the file is none, is damaged, or refers to what there is
/// not.
ObjectProgram program_of_elf(std::span<const uint8_t> file, const std::string& wanted,
                             const ObjectNames& names, std::string& why);

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// The verifier's answer about every program of an object file, for people and for CI: nothing is
// kept, nothing is attached.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../base/result.h"

namespace bpftime {

struct ProgramVerdict {
  std::string name;
  std::string section;
  uint32_t insn_count = 0;
  int errnum = 0;           // 0: accepted
  uint32_t insn_index = 0;  // this and what follows: of a refusal
  std::string reason;       // a sentence, or what libbpf said where it came to no verification
  std::string where;        // "file.c:12 `source`"
  std::vector<std::string> path;
  uint32_t walked = 0;  // instructions that the verifier walked
  uint32_t states = 0;  // that it kept
  uint32_t time_us = 0;
};

/// Each program by itself, so that one refusal does not hide the others. `only`: the name of the
/// one that is wanted, empty for all. ENOEXEC: no object of ours; ENOENT: no such program.
Result<std::vector<ProgramVerdict>> verify_object(std::span<const uint8_t> file,
                                                  const std::string& only, std::string& log);

}  // namespace bpftime

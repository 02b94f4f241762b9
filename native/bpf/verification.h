// SPDX-License-Identifier: MIT
// What the verifier (native/vm/verify) must know of a program of ours, and its answer as text.
#pragma once

#include <string>

#include "../vm/verify/verify.h"
#include "../vm/vm.h"
#include "objects.h"

namespace bpftime {

/// Helpers that the runtime has.
const HelperSet& known_helpers();
/// bpf_override_return, as an instruction.
constexpr uint64_t kCallOverrideReturn = uint64_t{58} << 32 | 0x85;

/// Verifies a program whose map references were translated; instructions that no path leads to
/// become `exit`. A refusal fails with the verifier's errno and appends to `log`: the path that led
/// there, then one line "insn N: sentence".
Result<void> verify_prog(ProgObject* prog, const ProgSpec& spec, std::string& log);

/// Keeps the outcome for programs of one name on this thread while it exists (libbpf loads others,
/// to find out what there is).
struct VerificationRecord {
  explicit VerificationRecord(std::string program_name);
  ~VerificationRecord();
  VerificationRecord(const VerificationRecord&) = delete;
  VerificationRecord& operator=(const VerificationRecord&) = delete;
  std::unique_ptr<verify::Outcome> outcome;  // null: there was none
  uint32_t time_us = 0;
  const std::string name;  // as bpf(2) gets it: cut
};

/// Appends "insn N: reason".
void add_log_line(std::string& log, size_t insn, const std::string& reason);

}  // namespace bpftime

// SPDX-License-Identifier: MIT
// What a session tells of its hooks and of the places that it diverted.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bpftime::target {

/// How a hook's program is reached from the body of a site. kInline: it stands there. kLite: it is
/// called, and finds the registers that it reads. kFull: it is called and finds all of pt_regs.
enum class Tier : uint8_t { kInline, kLite, kFull };

struct HookCounters {
  uint32_t hook_id = 0;
  Tier tier = Tier::kFull;
  uint64_t hits = 0;
  uint64_t missed = 0;
  uint64_t samples = 0;
  uint64_t sampled_ticks = 0;
};

/// Returns of which replaced return addresses saw nothing, because the frame ended, or was passed,
/// by an exception, a forced unwind or longjmp.
struct UnwoundReturns {
  uint64_t total = 0;                                // since the process was entered
  std::vector<std::pair<uint32_t, uint64_t>> hooks;  // id, count; of hooks that can tell
};

/// One diverted place in the text: a site's entry, or one of its exits.
struct PatchInfo {
  uint64_t addr = 0;  // of the site that it belongs to
  uint64_t site = 0, head = 0, copy = 0, body = 0;
  uint32_t body_bytes = 0;
  bool is_exit = false;
  bool on = false;  // the text has our bytes now
  std::vector<uint8_t> old_bytes, new_bytes, copy_bytes;
  std::string form;
};

}  // namespace bpftime::target

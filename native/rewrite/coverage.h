// SPDX-License-Identifier: MIT
// Coverage of one module: which of its functions take a probe at their entry, in which form, and
// why the others do not. The same planner that attaches decides, on the module as it is linked.
// Pure: bytes in, facts out.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "function_parts.h"
#include "site_plan.h"

namespace bpftime::rewrite {

/// A loaded part of a module, at its address as linked.
struct ModulePart {
  uint64_t addr = 0;
  std::vector<uint8_t> bytes;
  bool exec = false;
};

struct ModuleFunction {
  uint64_t addr = 0;
  uint32_t size = 0;
  bool is_go = false;
};

struct Coverage {
  struct Refused {
    size_t function = 0;      // index
    const char* reason = "";  // static
  };
  uint32_t functions = 0;             // looked at: those whose bytes are in an executable part
  std::array<uint32_t, 3> by_form{};  // indexed by SiteForm
  uint32_t returning = 0;             // functions with a `ret`
  uint32_t returning_by_ret = 0;      // of which all exits are `ret`s with room for a jump
  std::vector<Refused> refused;
};

/// `functions`: in address order; of several at one address the first counts. Whether the place
/// that a punned jump needs is free in some process is not known here: it is counted as if it were.
/// `piece_at`: what the module's unwind tables say, see function_parts.h.
Coverage cover_module(std::span<const ModulePart> parts, std::span<const ModuleFunction> functions,
                      const PieceFinder& piece_at);

}  // namespace bpftime::rewrite

// SPDX-License-Identifier: MIT
// SitePlan: how one place in a function is diverted to a trampoline, decided before anything is
// touched. Pure data, printable, golden-tested; native/target applies it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../base/result.h"
#include "function_view.h"

namespace bpftime::rewrite {

constexpr uint32_t kJumpBytes = 5;  // e9 rel32
constexpr uint32_t kWindowBytesMax = 48;

/// An instruction boundary of the window and where the same instruction begins in the copy.
struct PcPair {
  uint32_t old_off = 0;  // from the site
  uint32_t new_off = 0;  // from the start of the relocated copy
};

struct RelocatedCode {
  std::vector<uint8_t> code;
  std::vector<PcPair> map;  // one per instruction of the window, in order
};

/// kJump: e9 rel32. kShort: eb rel8 to padding that holds the long jump. kPunned: e9 rel32 whose
/// last bytes are those of the instructions behind the window, unchanged; where it leads is given
/// by them, and code must be put there. kOneByte: the same with nothing but the e9 written over
/// the first instruction: threads may run meanwhile.
enum class SiteForm : uint8_t { kJump, kShort, kPunned, kOneByte };

/// Code must be put where the jump leads.
constexpr bool has_landing(SiteForm form) {
  return form == SiteForm::kPunned || form == SiteForm::kOneByte;
}

struct SitePlan {
  SiteForm form = SiteForm::kJump;
  uint64_t pad = 0;            // kShort: where the long jump goes
  uint64_t site = 0;           // where the jump is written
  uint32_t window = 0;         // bytes displaced, whole instructions; kJump: >= kJumpBytes
  uint32_t first = 0;          // index of the window's first instruction in the function
  uint32_t count = 0;          // instructions in the window
  bool at_entry = false;       // flags are dead, no red zone, [rsp] is the return address
  bool falls_through = true;   // the window's end is reached: the copy must jump back there
  bool loops_to_site = false;  // a branch of the function goes back to the site: entry may re-fire,
                               // and the top of the stack need not be a return address then
  uint32_t keeps = 0;          // bytes from the site on that nobody else may take, at least
  bool behind_check = false;   // programs run behind the window: it is a stack check of Go, or sets
                               // the number of a system call

  /// Bytes from the site on that must stay as they are while the jump is there.
  [[nodiscard]] uint32_t reach() const { return std::max({window, kJumpBytes, keeps}); }
};

/// Chooses the window for a probe at `addr` (the function's start or an instruction inside it).
/// At the function's start a leading endbr64 is kept in place and the site lies behind it.
/// Fails with EINVAL (not an instruction boundary), EBUSY (a breakpoint of somebody else is there),
/// EOPNOTSUPP (no room for a jump: reason says why).
Result<SitePlan> plan_site(const FunctionView& function, uint64_t addr);

/// Every form in which a probe at `addr` could be set, best first: jump, short jump to padding,
/// punned jump. Which of them the address space has room for is the caller's to find out.
/// Fails as plan_site() does when there is none.
Result<std::vector<SitePlan>> plan_forms(const FunctionView& function, uint64_t addr);

/// The form that is set and taken back under running threads: one instruction of any length whose
/// first byte becomes e9. Fails as plan_site() does.
Result<SitePlan> plan_one_byte(const FunctionView& function, uint64_t addr);

/// The window's instructions alone, as a function of their own that begins at the site: with it
/// and the plan (whose `first` is 0 then) the rest of the function need not be remembered.
FunctionView window_view(const FunctionView& function, const SitePlan& plan);

/// Rewrites the window's instructions so that they do the same at `dest`.
/// Fails with EOPNOTSUPP when an operand or target is further than 2 GiB from `dest`, or an
/// instruction has no equivalent elsewhere.
Result<RelocatedCode> relocate(const FunctionView& function, const SitePlan& plan, uint64_t dest);

}  // namespace bpftime::rewrite

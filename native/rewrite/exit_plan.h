// SPDX-License-Identifier: MIT
// ExitPlan: a function's returns, each diverted where its `ret` stands.
//
// Nothing on the stack is touched, so exceptions, unwinders, debuggers, longjmp, coroutines and Go
// see what they always saw. Possible when every way out is a `ret` that has room for a jump: the
// whole instructions before it in the same straight line, itself, and padding behind it.
// Pure, like site_plan.h.
#pragma once

#include <vector>

#include "site_plan.h"

namespace bpftime::rewrite {

struct ExitPlan {
  std::vector<SitePlan> exits;  // in address order, disjoint; the last instruction is the `ret`
  bool in_entry = false;        // the entry's window ends in a `ret`, which is one more exit
};

/// Plans all exits of a function. `entry`: the window that a probe of its entry takes or would
/// take; exits keep clear of it. Fails with EOPNOTSUPP when some way out cannot be seen or has no
/// room, EBUSY when a breakpoint of somebody else is there.
Result<ExitPlan> plan_exits(const FunctionView& function, const SitePlan& entry);

/// All that attaching asks of a function's returns but what other code of the process does.
/// `taken`: the form that a probe of its entry takes, null when it takes none. Exits keep clear of
/// the window of an entry probe, and of padding that its jump needs, so that either can come later.
Result<ExitPlan> plan_returns(const FunctionView& function, bool is_go, const SitePlan* taken);

/// The same as plan_exits for changes under running threads: only the `ret` itself moves
/// (SiteForm::kOneByte).
Result<ExitPlan> plan_one_byte_exits(const FunctionView& function, const SitePlan& entry);

/// The instructions in front of an exit's `ret`, for execution at `dest`. See relocate().
Result<RelocatedCode> relocate_exit_prefix(const FunctionView& function, const SitePlan& exit,
                                           uint64_t dest);

/// The bytes of the `ret` itself: c3, c2 imm16, or with a prefix.
std::vector<uint8_t> exit_ret(const FunctionView& function, const SitePlan& exit);

}  // namespace bpftime::rewrite

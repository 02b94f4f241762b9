// SPDX-License-Identifier: MIT
#include "exit_plan.h"

#include <algorithm>

#include "go_prologue.h"
#include "padding.h"

namespace bpftime::rewrite {

namespace {

bool is_target(const FunctionView& function, uint32_t off) {
  return std::binary_search(function.branch_targets.begin(), function.branch_targets.end(),
                            function.addr + off);
}

// Bytes behind the instruction `index` that nothing executes, up to `wanted`: padding inside the
// function that no branch leads into, or behind its end.
uint32_t room_behind(const FunctionView& function, size_t index, uint32_t wanted) {
  uint32_t off = function.insns[index].off + function.insns[index].len;
  uint32_t room = 0;
  for (size_t i = index + 1; i < function.insns.size() && room < wanted; ++i) {
    const Insn& insn = function.insns[i];
    if (insn.off != off || !insn.is_padding || is_target(function, off)) return room;
    off += insn.len;
    room += insn.len;
  }
  return off >= function.size ? room + padding_behind(function) : room;
}

Result<SitePlan> plan_exit(const FunctionView& function, size_t index, uint32_t floor) {
  const Insn& ret = function.insns[index];
  SitePlan plan;
  plan.falls_through = false;
  plan.first = static_cast<uint32_t>(index);
  plan.count = 1;
  uint32_t begin = ret.off;
  const uint32_t behind = room_behind(function, index, kJumpBytes);
  while (ret.off + ret.len + behind - begin < kJumpBytes) {
    // One more instruction in front, unless control can come to the present first one from
    // elsewhere: its address would lie inside the jump.
    if (plan.first == 0 || is_target(function, begin)) {
      return fail(EOPNOTSUPP, "a branch leads to a return that has no room for a jump");
    }
    const Insn& before = function.insns[plan.first - 1];
    if (before.off + before.len != begin || before.off < floor) {
      return fail(EOPNOTSUPP, "a return has no room for a jump");
    }
    // A call would return into the jump. A conditional branch moves along.
    if (before.is_call || before.ends_flow) {
      return fail(EOPNOTSUPP, "a call in front of a return leaves no room for a jump");
    }
    if (before.is_trap) return fail(EBUSY, "a breakpoint is set there by somebody else");
    plan.first -= 1;
    plan.count += 1;
    begin = before.off;
  }
  plan.site = function.addr + begin;
  plan.window = std::max(ret.off + ret.len - begin, kJumpBytes);
  return plan;
}

Result<SitePlan> plan_one_byte_exit(const FunctionView& function, size_t index) {
  const Insn& ret = function.insns[index];
  SitePlan plan;
  plan.form = SiteForm::kOneByte;
  plan.falls_through = false;
  plan.first = static_cast<uint32_t>(index);
  plan.count = 1;
  plan.site = function.addr + ret.off;
  plan.window = ret.len;
  if (ret.off + kJumpBytes > function.bytes.size()) {
    return fail(EOPNOTSUPP, "the mapping ends behind a return");
  }
  return plan;
}

// Every way out is a `ret` that can be seen.
Result<void> leaves_by_ret(const FunctionView& function) {
  if (function.decoded_end < function.size) {
    return fail(EOPNOTSUPP, "part of the function cannot be decoded, so a return may be hidden");
  }
  if (function.has_unknown_jump) {
    return fail(EOPNOTSUPP, "a jump table of the function could not be read");
  }
  if (function.has_tail_jump) return fail(EOPNOTSUPP, "it leaves by a jump to another function");
  if (std::any_of(function.insns.begin(), function.insns.end(),
                  [](const Insn& insn) { return insn.is_ret && insn.is_far_ret; })) {
    return fail(EOPNOTSUPP, "it returns by iret or a far return");
  }
  return {};
}

}  // namespace

Result<ExitPlan> plan_exits(const FunctionView& function, const SitePlan& entry) {
  const Result<void> visible = leaves_by_ret(function);
  if (!visible) return visible.error();
  ExitPlan plan;
  const size_t entry_last = entry.first + entry.count - 1;
  uint32_t floor =
      static_cast<uint32_t>(entry.site + (entry.count > 0 ? entry.reach() : 0) - function.addr);
  for (size_t i = 0; i < function.insns.size(); ++i) {
    const Insn& insn = function.insns[i];
    if (!insn.is_ret) continue;
    if (i == entry_last && entry.count > 0) {
      if (entry.loops_to_site) return fail(EOPNOTSUPP, "it jumps back to its first bytes");
      plan.in_entry = true;
      continue;
    }
    const Result<SitePlan> exit = plan_exit(function, i, floor);
    if (!exit) return exit.error();
    plan.exits.push_back(exit.value());
    floor = static_cast<uint32_t>(exit.value().site + exit.value().window - function.addr);
  }
  if (plan.exits.empty() && !plan.in_entry) return fail(EOPNOTSUPP, "it never returns");
  return plan;
}

Result<ExitPlan> plan_returns(const FunctionView& function, bool is_go, const SitePlan* taken) {
  const Result<SitePlan> entry =
      is_go ? plan_go_site(function, function.addr) : plan_site(function, function.addr);
  SitePlan none;
  none.site = function.addr;
  Result<ExitPlan> plan = plan_exits(function, entry.ok() ? entry.value() : none);
  if (!plan) return plan;
  const std::vector<SitePlan>& exits = plan->exits;
  const bool is_contested =
      taken != nullptr && taken->form == SiteForm::kShort &&
      std::any_of(exits.begin(), exits.end(), [&](const SitePlan& exit) {
        return exit.site < taken->pad + kJumpBytes && taken->pad < exit.site + exit.window;
      });
  if (is_contested) {
    return fail(EOPNOTSUPP, "the jump at its entry needs the padding behind a return");
  }
  // They are executed in the exits' bodies, which the table of moved instructions does not know.
  const bool faults = is_go && ((plan->in_entry && may_fault(function, entry.value())) ||
                                std::any_of(exits.begin(), exits.end(), [&](const SitePlan& exit) {
                                  return may_fault(function, exit);
                                }));
  if (faults) return fail(EOPNOTSUPP, kReasonMayFault);
  return plan;
}

Result<ExitPlan> plan_one_byte_exits(const FunctionView& function, const SitePlan& entry) {
  const Result<void> visible = leaves_by_ret(function);
  if (!visible) return visible.error();
  ExitPlan plan;
  for (size_t i = 0; i < function.insns.size(); ++i) {
    if (!function.insns[i].is_ret) continue;
    if (function.addr + function.insns[i].off == entry.site) {
      if (entry.loops_to_site) return fail(EOPNOTSUPP, "it jumps back to its first bytes");
      plan.in_entry = true;
      continue;
    }
    const Result<SitePlan> exit = plan_one_byte_exit(function, i);
    if (!exit) return exit.error();
    plan.exits.push_back(exit.value());
  }
  if (plan.exits.empty() && !plan.in_entry) return fail(EOPNOTSUPP, "it never returns");
  return plan;
}

Result<RelocatedCode> relocate_exit_prefix(const FunctionView& function, const SitePlan& exit,
                                           uint64_t dest) {
  SitePlan prefix = exit;
  prefix.count -= 1;
  return relocate(function, prefix, dest);
}

std::vector<uint8_t> exit_ret(const FunctionView& function, const SitePlan& exit) {
  const Insn& ret = function.insns[exit.first + exit.count - 1];
  const auto begin = function.bytes.begin() + ret.off;
  return {begin, begin + ret.len};
}

}  // namespace bpftime::rewrite

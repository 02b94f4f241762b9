// SPDX-License-Identifier: MIT
#include "coverage.h"

#include <algorithm>
#include <cstring>

#include "branch_index.h"
#include "exit_plan.h"
#include "go_prologue.h"

namespace bpftime::rewrite {

namespace {

constexpr uint64_t kArenaAway = 16 << 20;  // where a copy might lie, for what has to be in reach

const ModulePart* part_at(std::span<const ModulePart> parts, uint64_t addr, uint64_t size) {
  for (const ModulePart& part : parts) {
    if (addr >= part.addr && addr - part.addr < part.bytes.size() &&
        size <= part.bytes.size() - (addr - part.addr)) {
      return &part;
    }
  }
  return nullptr;
}

Result<std::vector<SitePlan>> forms_of(const FunctionView& view, bool is_go) {
  if (!is_go) return plan_forms(view, view.addr);
  // A nil dereference among the bytes that move is no reason: the guard is armed for it.
  const Result<SitePlan> plan = plan_go_site(view, view.addr);
  if (!plan) return plan.error();
  return std::vector<SitePlan>{plan.value()};
}

// Does code outside of the function lead into the window? As Session::others_enter asks it of a
// process.
bool is_entered(const ModulePart& part, const BranchIndex& branches, const FunctionView& view,
                const SitePlan& plan) {
  uint64_t first = 0;
  const auto around = [&](uint64_t addr, uint64_t size) {
    first = addr - std::min(addr - part.addr, kShortReachBefore);
    const uint64_t end = std::min(part.addr + part.bytes.size(), addr + size + kShortReachBehind);
    return std::span<const uint8_t>(part.bytes.data() + (first - part.addr), end - first);
  };
  const uint64_t begin = view.addr, end = view.addr + view.size;
  for (const uint64_t from : branches.entering(plan.site, plan.window, begin, end)) {
    const std::span<const uint8_t> near = around(from, 0);
    if (may_begin_at(near, first, from)) return true;
  }
  const std::span<const uint8_t> near = around(plan.site, plan.window);
  return short_branch_enters(near, first, plan.site, plan.window, begin, end);
}

// The form that attaching would take.
Result<SitePlan> form_of(const FunctionView& view, bool is_go, const ModulePart& part,
                         const BranchIndex& branches) {
  const Result<std::vector<SitePlan>> forms = forms_of(view, is_go);
  if (!forms) return forms.error();
  Failure reason{0, nullptr};
  for (const SitePlan& plan : forms.value()) {
    const Result<RelocatedCode> copy = relocate(view, plan, plan.site + kArenaAway);
    if (copy.ok() && !is_entered(part, branches, view, plan)) return plan;
    if (reason.reason != nullptr) continue;
    reason = copy.ok() ? fail(EOPNOTSUPP, "other code jumps into the first bytes") : copy.error();
  }
  return reason;
}

// As Session::check_exits asks it of a process.
void count_exits(const FunctionView& view, bool is_go, const Result<SitePlan>& form,
                 const ModulePart& part, const BranchIndex& branches, Coverage* coverage) {
  const bool returns = std::any_of(view.insns.begin(), view.insns.end(),
                                   [](const Insn& insn) { return insn.is_ret; });
  if (!returns) return;
  coverage->returning += 1;
  const Result<ExitPlan> plan = plan_returns(view, is_go, form.ok() ? &form.value() : nullptr);
  if (!plan) return;
  const auto& exits = plan.value().exits;
  const bool is_free = std::none_of(exits.begin(), exits.end(), [&](const SitePlan& exit) {
    return is_entered(part, branches, view, exit);
  });
  if (is_free) coverage->returning_by_ret += 1;
}

}  // namespace

Coverage cover_module(std::span<const ModulePart> parts, std::span<const ModuleFunction> functions,
                      const PieceFinder& piece_at) {
  Coverage coverage;
  std::vector<BranchIndex> indexes;
  indexes.reserve(parts.size());
  for (const ModulePart& part : parts) {
    const bool looks = part.exec;
    indexes.emplace_back(looks ? std::span<const uint8_t>(part.bytes) : std::span<const uint8_t>(),
                         part.addr);
  }
  const MemoryReader read = [&](uint64_t addr, void* out, size_t size) {
    const ModulePart* part = part_at(parts, addr, size);
    if (part == nullptr) return false;
    memcpy(out, part->bytes.data() + (addr - part->addr), size);
    return true;
  };
  uint64_t last = ~uint64_t{0};
  for (size_t i = 0; i < functions.size(); ++i) {
    const ModuleFunction& function = functions[i];
    const ModulePart* part = part_at(parts, function.addr, function.size);
    if (part == nullptr || !part->exec || function.size == 0 || function.addr == last) continue;
    last = function.addr;
    coverage.functions += 1;
    const uint64_t off = function.addr - part->addr;
    const uint64_t available =
        std::min<uint64_t>(uint64_t{function.size} + 16, part->bytes.size() - off);
    Result<FunctionView> view =
        decode_function(function.addr, function.size, {part->bytes.data() + off, available}, read);
    const BranchIndex& branches = indexes[static_cast<size_t>(part - parts.data())];
    const Result<SitePlan> form = view.ok() ? form_of(view.value(), function.is_go, *part, branches)
                                            : Result<SitePlan>(view.error());
    if (form.ok()) {
      coverage.by_form[static_cast<size_t>(form.value().form)] += 1;
    } else {
      coverage.refused.push_back({i, form.error().reason});
    }
    if (view.ok()) {
      join_parts(&view.value(), piece_at, read);
      count_exits(view.value(), function.is_go, form, *part, branches, &coverage);
    }
  }
  return coverage;
}

}  // namespace bpftime::rewrite

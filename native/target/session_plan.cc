// SPDX-License-Identifier: MIT
// Session, planning: from a wanted site to the places in the text that have to change, with their
// heads and copies. Reads the target; nothing that it writes is reachable by its threads yet.
#include <algorithm>

#include "../rewrite/emit.h"
#include "../rewrite/go_prologue.h"
#include "session.h"
#include "session_parts.h"

namespace bpftime::target {

namespace {

constexpr uint64_t kFunctionBytesMax = 4 << 20;
constexpr uint64_t kTextScanBytesMax = uint64_t{256} << 20;
constexpr const char* kMayFault =
    "a nil dereference among the bytes that would move could not become a panic";

}  // namespace

std::vector<Session::Patch*> Session::Site::patches() const {
  std::vector<Patch*> all;
  if (entry != nullptr) all.push_back(entry.get());
  for (const auto& exit : exits) all.push_back(exit.get());
  return all;
}

void Session::register_patches(const Site& site) {
  for (Patch* patch : site.patches()) patches_[patch->plan.site] = patch;
}

void Session::unregister_patches(const Site& site) {
  for (const Patch* patch : site.patches()) patches_.erase(patch->plan.site);
}

Result<std::vector<uint8_t>> Session::original_bytes(uint64_t addr, uint64_t size) const {
  std::vector<uint8_t> bytes(size);
  const Result<void> read = get(addr, bytes.data(), bytes.size());
  if (!read) return read.error();
  auto it = patches_.lower_bound(addr - std::min<uint64_t>(addr, rewrite::kWindowBytesMax));
  for (; it != patches_.end() && it->first < addr + size; ++it) {
    const std::vector<uint8_t>& old_bytes = it->second->old_bytes;
    for (size_t i = 0; i < old_bytes.size(); ++i) {
      const uint64_t pos = it->first + i;
      if (pos >= addr && pos < addr + size) bytes[pos - addr] = old_bytes[i];
    }
  }
  return bytes;
}

Result<const rewrite::BranchIndex*> Session::branches_of(const Region& text) {
  TextIndex& index = text_indexes_[text.start];
  if (index.branches == nullptr || index.end != text.end || index.inode != text.inode) {
    const Result<std::vector<uint8_t>> bytes =
        original_bytes(text.start, std::min(text.end - text.start, kTextScanBytesMax));
    if (!bytes) return bytes.error();
    index.branches = std::make_unique<rewrite::BranchIndex>(bytes.value(), text.start);
    index.end = text.end;
    index.inode = text.inode;
  }
  return index.branches.get();
}

Result<Session::Function> Session::decode(uint64_t addr, uint32_t size) {
  if (size == 0 || size > kFunctionBytesMax) {
    return fail(EOPNOTSUPP, "the function's size is not known or is over 4 MiB");
  }
  const Region* text = region_at(regions_, addr);
  if (text == nullptr || !text->exec) return fail(EINVAL, "the address is not executable");
  if (text->shared) {
    return fail(EOPNOTSUPP, "its code is mapped shared: a change would reach other processes");
  }
  const uint64_t mapped = text->end - addr;
  const Result<std::vector<uint8_t>> bytes =
      original_bytes(addr, std::min<uint64_t>(size + uint64_t{16}, mapped));
  if (!bytes) return bytes.error();
  const auto reader = [this](uint64_t at, void* out, size_t count) {
    return get(at, out, count).ok();
  };
  Result<rewrite::FunctionView> view = rewrite::decode_function(
      addr, static_cast<uint32_t>(std::min<uint64_t>(size, mapped)), bytes.value(), reader);
  if (!view) return view.error();
  return Function{std::move(view.value()), *text};
}

// What the function alone cannot tell about a window: who else was there, who jumps into it.
Result<void> Session::check_window(const Function& function, const rewrite::SitePlan& plan) {
  const rewrite::FunctionView& view = function.view;
  const rewrite::Insn& first = view.insns[plan.first];
  if (first.is_branch && first.branch_target != 0) {
    const Region* to = region_at(regions_, first.branch_target);
    if (to == nullptr || to->inode != function.text.inode) {
      return fail(EBUSY, "somebody else's jump is there already");
    }
  }
  if (plan.site - view.addr + plan.window > view.bytes.size()) {
    return fail(EOPNOTSUPP, "the mapping ends within the first bytes");
  }
  const auto behind = patches_.lower_bound(plan.site);
  if (behind != patches_.end() && behind->first < plan.site + plan.window) {
    return fail(EBUSY, "another probe's bytes overlap");
  }
  if (behind != patches_.begin()) {
    const auto before = std::prev(behind);
    if (before->first + before->second->plan.window > plan.site) {
      return fail(EBUSY, "another probe's bytes overlap");
    }
  }
  const Result<const rewrite::BranchIndex*> branches = branches_of(function.text);
  if (branches.ok() &&
      branches.value()->enters(plan.site, plan.window, view.addr, view.addr + view.size)) {
    return fail(EOPNOTSUPP, "other code jumps into the first bytes");
  }
  return {};
}

// One diverted place with its copy, written where no thread comes yet. The head comes with a body.
Result<std::unique_ptr<Session::Patch>> Session::make_patch(const Function& function,
                                                            const rewrite::SitePlan& plan,
                                                            Arena* arena) {
  const Result<void> free = check_window(function, plan);
  if (!free) return free.error();
  auto patch = std::make_unique<Patch>();
  patch->window = rewrite::window_view(function.view, plan);
  patch->plan = plan;
  patch->plan.first = 0;
  patch->old_bytes = patch->window.bytes;
  patch->is_go = function.is_go;
  // Its size does not depend on where it lies.
  const Result<rewrite::RelocatedCode> draft =
      rewrite::relocate(patch->window, patch->plan, arena->base);
  if (!draft) return draft.error();
  const Result<uint64_t> copy = allocate(arena, draft.value().code.size());
  if (!copy) return copy.error();
  patch->copy = copy.value();
  Result<rewrite::RelocatedCode> relocated =
      rewrite::relocate(patch->window, patch->plan, patch->copy);
  if (!relocated) return relocated.error();
  patch->pc_map = std::move(relocated.value().map);
  patch->copy_bytes = std::move(relocated.value().code);
  const Result<void> wrote = put(patch->copy, patch->copy_bytes.data(), patch->copy_bytes.size());
  if (!wrote) return wrote.error();
  return patch;
}

Result<uint32_t> Session::check_exits(uint64_t addr, uint32_t size, bool is_go) {
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  Result<Function> function = decode(addr, size);
  if (!function) return function.error();
  function.value().is_go = is_go;
  const Result<rewrite::ExitPlan> plan = plan_exits(function.value());
  if (!plan) return plan.error();
  const auto site = sites_.find(addr);
  const bool is_planned = site != sites_.end() && site->second->exits_planned;
  for (const rewrite::SitePlan& exit : plan.value().exits) {
    if (is_planned) break;
    const Result<void> free = check_window(function.value(), exit);
    if (!free) return free.error();
  }
  return static_cast<uint32_t>(plan.value().exits.size() + (plan.value().in_entry ? 1 : 0));
}

// Exits keep clear of the window of an entry probe, so that either can come later.
Result<rewrite::ExitPlan> Session::plan_exits(const Function& function) {
  const Result<rewrite::SitePlan> entry = plan_window(function, function.view.addr);
  rewrite::SitePlan none;
  none.site = function.view.addr;
  Result<rewrite::ExitPlan> plan =
      rewrite::plan_exits(function.view, entry.ok() ? entry.value() : none);
  if (!plan || !function.is_go) return plan;
  for (const rewrite::SitePlan& exit : plan.value().exits) {
    if (rewrite::may_fault(function.view, exit)) return fail(EOPNOTSUPP, kMayFault);
  }
  return plan;
}

Result<rewrite::SitePlan> Session::plan_window(const Function& function, uint64_t addr) {
  if (!function.is_go) return rewrite::plan_site(function.view, addr);
  Result<rewrite::SitePlan> plan = rewrite::plan_go_site(function.view, addr);
  if (plan.ok() && rewrite::may_fault(function.view, plan.value()) && !plan->behind_check) {
    return fail(EOPNOTSUPP, kMayFault);
  }
  return plan;
}

// Plans what the wanted hooks need and the site does not have yet.
Result<void> Session::plan_site(const SiteRequest& request, Site* site) {
  bool wants_entry = false, wants_return = false;
  for (const HookRequest& hook : request.hooks) {
    (hook.on_return ? wants_return : wants_entry) = true;
  }
  const bool by_ret = wants_return && request.exit_form == ExitForm::kRet;
  if (wants_return && !by_ret) wants_entry = true;
  const bool needs_exits = by_ret && !site->exits_planned;
  if ((wants_entry && site->entry == nullptr) || needs_exits) {
    Result<Function> function = decode(request.function, request.function_size);
    if (!function) return function.error();
    function.value().is_go = request.go_morestack != 0;
    function.value().checks_stack =
        function.value().is_go && rewrite::go_stack_check(function.value().view) != 0;
    const Region& text = function.value().text;
    site->inode = text.inode;
    if (site->arena == nullptr) {
      const Result<Arena*> arena = arena_near(text.start, text.end, 512);
      if (!arena) return arena.error();
      site->arena = arena.value();
      site->id = next_site_id_++;
    }
    Result<void> planned;
    if (wants_entry) planned = plan_entry(function.value(), request.addr, site);
    if (planned.ok() && needs_exits) planned = plan_site_exits(function.value(), site);
    if (!planned) return planned;
  }
  if (wants_return && !by_ret && site->entry->plan.loops_to_site) {
    return fail(EOPNOTSUPP, "the function jumps back to its start: returns cannot be followed");
  }
  return {};
}

Result<void> Session::plan_entry(const Function& function, uint64_t addr, Site* site) {
  if (site->entry != nullptr) return {};
  Result<rewrite::SitePlan> plan = plan_window(function, addr);
  if (!plan) return plan.error();
  Result<std::unique_ptr<Patch>> patch = make_patch(function, plan.value(), site->arena);
  if (!patch) return patch.error();
  site->entry = std::move(patch.value());
  site->entry->has_room = plan->behind_check;
  site->entry->is_entry = true;
  return {};
}

Result<void> Session::plan_site_exits(const Function& function, Site* site) {
  const Result<rewrite::ExitPlan> plan = plan_exits(function);
  if (!plan) return plan.error();
  std::vector<std::unique_ptr<Patch>> exits;
  for (const rewrite::SitePlan& exit : plan.value().exits) {
    Result<std::unique_ptr<Patch>> patch = make_patch(function, exit, site->arena);
    if (!patch) return patch.error();
    patch.value()->is_exit = true;
    patch.value()->has_room = function.checks_stack;
    exits.push_back(std::move(patch.value()));
  }
  if (plan.value().in_entry) {
    const Result<void> planned = plan_entry(function, function.view.addr, site);
    if (!planned) return planned;
    site->entry->is_exit = true;
  }
  site->exits = std::move(exits);
  site->exits_planned = true;
  return {};
}

}  // namespace bpftime::target

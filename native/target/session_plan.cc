// SPDX-License-Identifier: MIT
// Session, planning: from a wanted site to the places in the text that have to change, with their
// heads and copies. Reads the target; nothing that it writes is reachable by its threads yet.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "../rewrite/emit.h"
#include "../rewrite/function_parts.h"
#include "../rewrite/go_prologue.h"
#include "../rewrite/padding.h"
#include "session.h"
#include "session_parts.h"

namespace bpftime::target {

namespace {

constexpr uint64_t kFunctionBytesMax = 4 << 20;
constexpr uint64_t kTextScanBytesMax = uint64_t{256} << 20;
constexpr uint64_t kLandingBytes = 14;  // jmp [rip]; the address

}  // namespace

std::vector<Session::Patch*> Session::Site::patches() const {
  std::vector<Patch*> all;
  if (entry != nullptr) all.push_back(entry.get());
  for (const auto& exit : exits) all.push_back(exit.get());
  return all;
}

void Session::register_patches(const Site& site) {
  for (const Patch* patch : site.patches()) {
    held_[patch->plan.site] = {patch, &patch->old_bytes, patch->plan.reach()};
    if (patch->plan.pad != 0)
      held_[patch->plan.pad] = {patch, &patch->pad_old, rewrite::kJumpBytes};
  }
}

void Session::unregister_patches(const Site& site) {
  for (const Patch* patch : site.patches()) {
    held_.erase(patch->plan.site);
    held_.erase(patch->plan.pad);
  }
}

Result<std::vector<uint8_t>> Session::original_bytes(uint64_t addr, uint64_t size) const {
  std::vector<uint8_t> bytes(size);
  const Result<void> read = get(addr, bytes.data(), bytes.size());
  if (!read) return read.error();
  auto it = held_.lower_bound(addr - std::min<uint64_t>(addr, rewrite::kWindowBytesMax));
  for (; it != held_.end() && it->first < addr + size; ++it) {
    const std::vector<uint8_t>& old_bytes = *it->second.old_bytes;
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
    index.file.reset();
    index.file_sought = false;
    index.extents.reset();
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

// Of a function whose returns are to be caught: where it is left for parts of its own, it is not
// left at all.
void Session::join_parts(Function* function) {
  if (!function->view.has_tail_jump || function->is_go) return;
  if (!branches_of(function->text).ok()) return;  // as it is now
  TextIndex& index = text_indexes_[function->text.start];
  const auto read = [this](uint64_t addr, void* out, size_t size) {
    const Result<std::vector<uint8_t>> bytes = original_bytes(addr, size);
    if (bytes.ok()) memcpy(out, bytes.value().data(), size);
    return bytes.ok();
  };
  if (!index.extents) {
    index.extents.emplace();
    for (const CodeMapping& mapping : code_mappings(regions_)) {
      if (mapping.start != function->text.start) continue;
      const Result<unwind::ElfModule> module = unwind::read_elf_module(mapping.file_start, read);
      if (module.ok()) index.extents.emplace(module.value());
    }
  }
  rewrite::join_parts(
      &function->view, [&](uint64_t addr) { return index.extents->at(addr); }, read);
}

bool Session::overlaps(const rewrite::SitePlan& plan) const {
  const auto behind = held_.lower_bound(plan.site);
  if (behind != held_.end() && behind->first < plan.site + plan.reach()) return true;
  if (behind == held_.begin()) return false;
  const auto before = std::prev(behind);
  return before->first + before->second.reach > plan.site;
}

// Whether code is what its file has, our own jumps apart. What cannot be told is taken to be.
Result<void> Session::check_untouched(const Region& text, uint64_t addr, uint32_t bytes) {
  if (text.inode == 0 || addr < text.start || bytes > text.end - addr) return {};
  const Result<const rewrite::BranchIndex*> indexed = branches_of(text);
  if (!indexed) return indexed.error();
  TextIndex& index = text_indexes_[text.start];
  if (!index.file_sought) index.file = open_text_file(text);
  index.file_sought = true;
  std::vector<uint8_t> wanted(bytes);
  const auto off = static_cast<off_t>(text.file_off + (addr - text.start));
  if (pread(index.file.get(), wanted.data(), bytes, off) != bytes) return {};
  const Result<std::vector<uint8_t>> seen = original_bytes(addr, bytes);
  if (!seen) return seen.error();
  if (seen.value() != wanted) return fail(EBUSY, "somebody else changed the code there");
  return {};
}

// Not valid when we may not open it, or another file has its name by now.
ScopedFd Session::open_text_file(const Region& text) const {
  char path[80];
  snprintf(path, sizeof path, "/proc/%d/map_files/%lx-%lx", any_thread(), text.start, text.end);
  ScopedFd file(open(path, O_RDONLY | O_CLOEXEC));
  if (file.valid()) return file;
  const std::string named = "/proc/" + std::to_string(any_thread()) + "/root" + text.path;
  file.reset(open(named.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st {};
  if (file.valid() && (fstat(file.get(), &st) != 0 || st.st_ino != text.inode)) file.reset();
  return file;
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
  if (overlaps(plan)) return fail(EBUSY, "another probe's bytes overlap");
  const Result<void> untouched = check_untouched(function.text, plan.site, plan.window);
  if (!untouched) return untouched;
  // One instruction, whose other bytes stay as they are.
  if (plan.form == rewrite::SiteForm::kOneByte) return {};
  const Result<bool> entered =
      others_enter(function.text, plan.site, plan.window, view.addr, view.addr + view.size);
  if (!entered) return entered.error();
  if (entered.value()) return fail(EOPNOTSUPP, "other code jumps into the first bytes");
  return {};
}

// Whether a branch that lies outside [begin, end) leads into the middle of a window.
Result<bool> Session::others_enter(const Region& text, uint64_t site, uint32_t bytes,
                                   uint64_t begin, uint64_t end) {
  const auto around = [&](uint64_t addr, uint32_t size, uint64_t* first) {
    *first = addr - std::min(addr - text.start, rewrite::kShortReachBefore);
    const uint64_t last = std::min(text.end, addr + size + rewrite::kShortReachBehind);
    return original_bytes(*first, last - *first);
  };
  uint64_t first = 0;
  const Result<const rewrite::BranchIndex*> branches = branches_of(text);
  if (!branches) return branches.error();
  for (const uint64_t from : branches.value()->entering(site, bytes, begin, end)) {
    const Result<std::vector<uint8_t>> near = around(from, 0, &first);
    if (!near || rewrite::may_begin_at(near.value(), first, from)) return true;
  }
  const Result<std::vector<uint8_t>> near = around(site, bytes, &first);
  if (!near) return near.error();
  return rewrite::short_branch_enters(near.value(), first, site, bytes, begin, end);
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
  const Result<void> relayed = make_relay(function, patch.get());
  if (!relayed) return relayed.error();
  const Result<void> wrote = put(patch->copy, patch->copy_bytes.data(), patch->copy_bytes.size());
  if (!wrote) return wrote.error();
  return patch;
}

// The text at the site of a patch that leads to `head`.
std::vector<uint8_t> Session::site_bytes(const Patch& patch, uint64_t head) {
  const rewrite::SitePlan& plan = patch.plan;
  if (plan.form == rewrite::SiteForm::kJump) return jump_bytes(plan.site, head, plan.window);
  std::vector<uint8_t> bytes;
  if (plan.form == rewrite::SiteForm::kShort) {
    bytes = {0xeb, static_cast<uint8_t>(plan.pad - plan.site - 2)};
    bytes.resize(plan.window, 0xcc);
  } else {
    bytes = patch.old_bytes;
    const std::vector<uint8_t> jump = jump_bytes(plan.site, patch.landing, rewrite::kJumpBytes);
    const size_t changed = plan.form == rewrite::SiteForm::kOneByte ? 1 : plan.window;
    std::copy_n(jump.begin(), changed, bytes.begin());
  }
  return bytes;
}

// What lies between a jump that cannot reach far and the head.
Session::Relay Session::relay_of(const Patch& patch, uint64_t head) {
  const rewrite::SitePlan& plan = patch.plan;
  if (plan.form == rewrite::SiteForm::kShort) {
    return {plan.pad, jump_bytes(plan.pad, head, rewrite::kJumpBytes)};
  }
  if (!has_landing(plan.form)) return {};
  std::vector<uint8_t> code{0xff, 0x25, 0, 0, 0, 0};  // jmp [rip]
  code.resize(kLandingBytes);
  memcpy(code.data() + 6, &head, sizeof head);
  return {patch.landing, std::move(code)};
}

// Everything stands still, or no thread comes there.
Result<void> Session::write_relay(const Patch& patch, uint64_t head, bool on) const {
  const Relay relay = relay_of(patch, head);
  if (relay.bytes.empty()) return {};
  if (!on && patch.pad_old.empty()) return {};
  return put(relay.addr, on ? relay.bytes.data() : patch.pad_old.data(), relay.bytes.size());
}

// The place that write_relay will write, if the form has one.
Result<void> Session::make_relay(const Function& function, Patch* patch) {
  const rewrite::SitePlan& plan = patch->plan;
  if (has_landing(plan.form)) return make_landing(patch);
  if (plan.form != rewrite::SiteForm::kShort) return {};
  Result<std::vector<uint8_t>> bytes = original_bytes(plan.pad, rewrite::kJumpBytes);
  if (!bytes) return bytes.error();
  patch->pad_old = std::move(bytes.value());
  rewrite::SitePlan pad;
  pad.site = plan.pad;
  const Result<bool> entered =
      others_enter(function.text, pad.site - 1, rewrite::kJumpBytes + 1, 0, 0);
  if (!entered.ok() || entered.value() || overlaps(pad)) {
    return fail(EOPNOTSUPP, "the padding in reach is in use");
  }
  return {};
}

// Whether a place lies in a page of ours where no other jump lands. EAGAIN: a thread may still be
// on its way through a jump that landed there.
Result<bool> Session::shares_landing(uint64_t at) const {
  const uint64_t last = at + kLandingBytes - 1;
  const auto covers = [this](uint64_t addr) {
    return std::any_of(landings_.begin(), landings_.end(), [addr](const auto& range) {
      return range.first <= addr && addr < range.second;
    });
  };
  if (!covers(at) || !covers(last)) return false;
  const auto meets = [&](uint64_t other) {
    return other != 0 && other <= last && at < other + kLandingBytes;
  };
  for (const auto& [id, retired] : retired_) {
    const auto& addrs = retired.landing_addrs;
    if (std::any_of(addrs.begin(), addrs.end(), meets)) {
      return fail(EAGAIN, "a thread is still on its way through a probe that was there");
    }
  }
  return std::none_of(held_.begin(), held_.end(),
                      [&](const auto& held) { return meets(held.second.patch->landing); });
}

// Where a jump lands whose displacement ends with what stands behind its free bytes.
Result<Session::Landing> Session::choose_landing(const rewrite::SitePlan& plan) const {
  const uint64_t next = plan.site + rewrite::kJumpBytes;
  const Result<std::vector<uint8_t>> now = original_bytes(plan.site, rewrite::kJumpBytes);
  if (!now) return now.error();
  std::vector<uint8_t> bytes = now.value();
  const uint32_t free_bytes = plan.form == rewrite::SiteForm::kOneByte ? 0 : plan.window - 1;
  std::fill_n(bytes.begin() + 1, free_bytes, uint8_t{0});
  int32_t low = 0;  // the displacement with its free bytes zero
  memcpy(&low, bytes.data() + 1, sizeof low);
  const uint64_t choices = uint64_t{1} << 8 * free_bytes;
  const uint64_t first = next + static_cast<uint64_t>(int64_t{low});
  const Result<bool> shared = free_bytes == 0 ? shares_landing(first) : Result<bool>(false);
  if (!shared) return shared.error();
  if (shared.value()) return Landing{first, true};
  const auto at = find_place(regions_, first, choices, kLandingBytes);
  if (!at) return fail(EOPNOTSUPP, "where its jump could lead is not free");
  return Landing{*at, false};
}

// A page of code where a punned jump leads.
Result<void> Session::make_landing(Patch* patch) {
  const Result<Landing> landing = choose_landing(patch->plan);
  if (!landing) return landing.error();
  const uint64_t at = landing.value().at;
  const uint64_t page = at & ~uint64_t{ABI_PAGE_BYTES - 1};
  const uint64_t end = (at + kLandingBytes + ABI_PAGE_BYTES - 1) & ~uint64_t{ABI_PAGE_BYTES - 1};
  std::vector<MapWant> wants{
      MapWant::anon(end - page, PROT_READ | PROT_EXEC, MAP_FIXED_NOREPLACE, page)};
  // Somebody else was quicker, or the kernel keeps the place to itself: another form may do.
  const Result<void> mapped = landing.value().is_shared ? Result<void>() : map_all(&wants);
  if (!mapped) return fail(EOPNOTSUPP, "where its jump could lead is not free");
  landings_.emplace_back(page, end);
  patch->landing = at;
  patch->landing_bytes = end - page;
  return {};
}

Result<uint32_t> Session::check_exits(uint64_t addr, uint32_t size, bool is_go) {
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  Result<Function> function = decode(addr, size);
  if (!function) return function.error();
  function.value().is_go = is_go;
  join_parts(&function.value());
  const Result<rewrite::ExitPlan> plan = plan_exits(function.value());
  if (!plan) return plan.error();
  const auto site = sites_.find(addr);
  const bool is_planned = site != sites_.end() && site->second->exits_planned;
  for (const rewrite::SitePlan& exit : plan.value().exits) {
    if (is_planned) break;
    const Result<void> free = check_window(function.value(), exit);
    if (!free) return free.error();
    if (exit.form != rewrite::SiteForm::kOneByte) continue;
    const Result<Landing> landing = choose_landing(exit);
    if (!landing && landing.error().errnum != EAGAIN) return landing.error();
  }
  return static_cast<uint32_t>(plan.value().exits.size() + (plan.value().in_entry ? 1 : 0));
}

// The form that a probe of the function's entry has or would have.
std::optional<rewrite::SitePlan> Session::form_of_entry(const Function& function) {
  const auto site = sites_.find(function.view.addr);
  if (site != sites_.end() && site->second->entry != nullptr) return site->second->entry->plan;
  const auto forms = plan_windows(function, function.view.addr);
  if (!forms) return std::nullopt;
  for (const rewrite::SitePlan& form : forms.value()) {
    if (check_window(function, form).ok()) return form;
  }
  return std::nullopt;
}

Result<rewrite::ExitPlan> Session::plan_exits(const Function& function) {
  if (no_stop_) {
    const Result<rewrite::SitePlan> entry = plan_window(function, function.view.addr);
    rewrite::SitePlan none;
    none.site = function.view.addr;
    return rewrite::plan_one_byte_exits(function.view, entry.ok() ? entry.value() : none);
  }
  const std::optional<rewrite::SitePlan> taken = form_of_entry(function);
  return rewrite::plan_returns(function.view, function.is_go, taken ? &*taken : nullptr);
}

Result<rewrite::SitePlan> Session::plan_window(const Function& function, uint64_t addr) {
  if (no_stop_ && function.is_go) {
    return fail(EOPNOTSUPP, "Go code is changed only while it stands still");
  }
  if (no_stop_) return rewrite::plan_one_byte(function.view, addr);
  if (!function.is_go) return rewrite::plan_site(function.view, addr);
  return rewrite::plan_go_site(function.view, addr);
}

// Every form for the site, best first. Go's code takes the jump only: where its stack check stands
// decides where programs may run.
Result<std::vector<rewrite::SitePlan>> Session::plan_windows(const Function& function,
                                                             uint64_t addr) {
  if (!function.is_go && !no_stop_) {
    Result<std::vector<rewrite::SitePlan>> forms = rewrite::plan_forms(function.view, addr);
    if (forms.ok()) prefer_short(function, &forms.value());
    return forms;
  }
  const Result<rewrite::SitePlan> plan = plan_window(function, addr);
  if (!plan) return plan.error();
  return std::vector<rewrite::SitePlan>{plan.value()};
}

// A short jump in place of one that would displace a call, whose return would be mispredicted: if
// there is padding for it that no exit may want.
void Session::prefer_short(const Function& function, std::vector<rewrite::SitePlan>* forms) {
  const rewrite::FunctionView& view = function.view;
  const auto has_call = [&](const rewrite::SitePlan& plan) {
    const auto first = view.insns.begin() + plan.first;
    return std::any_of(first, first + plan.count, [](const auto& insn) { return insn.is_call; });
  };
  if (forms->size() < 2 || (*forms)[1].form != rewrite::SiteForm::kShort) return;
  rewrite::SitePlan& brief = (*forms)[1];
  if (!has_call(forms->front()) || has_call(brief)) return;
  Result<rewrite::ExitPlan> exits = rewrite::plan_exits(view, forms->front());
  const uint64_t end = view.addr + view.size;
  uint64_t pad = brief.pad;
  for (size_t i = 0; exits.ok() && i < exits->exits.size(); ++i) {
    const rewrite::SitePlan& exit = exits->exits[i];
    if (exit.site >= pad + rewrite::kJumpBytes || pad >= exit.site + exit.window) continue;
    pad = exit.site + exit.window;
    if (pad < end || pad + rewrite::kJumpBytes > end + rewrite::padding_behind(view)) return;
  }
  if (pad - brief.site - 2 > INT8_MAX && pad > brief.site) return;
  brief.pad = pad;
  std::swap((*forms)[0], (*forms)[1]);
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
      const Result<Arena*> arena = arena_near(text.start, text.end);
      if (!arena) return arena.error();
      site->arena = arena.value();
      site->id = next_site_id_++;
    }
    Result<void> planned;
    if (wants_entry) planned = plan_entry(function.value(), request.addr, site);
    // What the entry takes is taken, its padding too, when the exits look for room.
    register_patches(*site);
    if (planned.ok() && needs_exits) join_parts(&function.value());
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
  // A patch of somebody's makes no sense as code: the refusal is to name it, not what it looks
  // like.
  const Result<void> untouched = check_untouched(function.text, addr, rewrite::kJumpBytes);
  if (!untouched) return untouched;
  const Result<std::vector<rewrite::SitePlan>> forms = plan_windows(function, addr);
  if (!forms) return forms.error();
  // Of several reasons the first form's says most; when it has none, the last one's.
  const Result<rewrite::SitePlan> best = plan_window(function, addr);
  Failure reason = best.ok() ? Failure{0, nullptr} : best.error();
  for (rewrite::SitePlan plan : forms.value()) {
    plan.keeps = site->request.keeps;
    plan.behind_check |= site->request.behind;
    const bool may_fault =
        function.is_go && !plan.behind_check && rewrite::may_fault(function.view, plan);
    if (may_fault && !guard_armed_) return fail(ENOTRECOVERABLE, rewrite::kReasonMayFault);
    Result<std::unique_ptr<Patch>> patch = make_patch(function, plan, site->arena);
    if (patch.ok()) {
      site->entry = std::move(patch.value());
      site->entry->has_room = plan.behind_check;
      site->entry->may_fault = may_fault;
      site->entry->is_entry = true;
      return {};
    }
    if (reason.errnum == 0) reason = patch.error();
    if (patch.error().errnum != EOPNOTSUPP) return patch.error();
  }
  return reason;
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

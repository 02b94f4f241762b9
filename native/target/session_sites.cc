// SPDX-License-Identifier: MIT
// Session, building: arenas and the bodies of planned sites, made while the target
// runs. Nothing here is visible to the target's threads yet.
#include <cpuid.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "../rewrite/emit.h"
#include "../rewrite/trampoline.h"
#include "session.h"
#include "session_parts.h"

namespace bpftime::target {

namespace {

constexpr uint64_t kArenaCodeBytes = 1 << 20;
// What an arena keeps for the sites that it has: they may come to have more hooks and other bodies.
constexpr uint64_t kReserveBytes = 64 << 10;
constexpr uint32_t kReserveHooks = 16;
constexpr int kHoleAttempts = 4;
constexpr uint32_t kRaxWord = 1u << 10;  // of struct pt_regs

// AT_HWCAP2 bit 1: the kernel lets user space read its fs base (arch/x86/include/uapi/asm/hwcap2.h)
bool has_fsgsbase() { return (getauxval(AT_HWCAP2) & 2) != 0; }

}  // namespace

// CPUID leaf 7, ECX bit 22.
bool has_rdpid() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 22 & 1) != 0;
}

Result<uint64_t> Session::allocate(Arena* arena, uint64_t bytes, uint64_t align) {
  if (align == 0) align = bytes <= 8 ? 8 : 16;
  const auto at = arena->space.take(bytes, align);
  if (!at) return fail(ENOSPC, "the code arena is full");
  taken_.push_back({arena, *at, bytes});
  return *at;
}

std::optional<uint32_t> Session::Arena::take_stats() {
  const auto free = std::find(stats_used.begin(), stats_used.end(), false);
  if (free == stats_used.end()) return std::nullopt;
  *free = true;
  --stats_free;
  const auto index = static_cast<uint32_t>(free - stats_used.begin());
  for (size_t cpu = 0; cpu < stats_bytes >> kStatsCpuShift; ++cpu) {
    memset(stats_view + (cpu << kStatsCpuShift) + index * sizeof(hook_stats), 0,
           sizeof(hook_stats));
  }
  return index;
}

void Session::Arena::give_back_stats(uint32_t index) {
  stats_used[index] = false;
  ++stats_free;
}

// An arena for a site, or counters, of what lies from `start` to `end`.
Result<Session::Arena*> Session::arena_near(uint64_t start, uint64_t end) {
  for (const auto& arena : arenas_) {
    const uint64_t limit = arena->base + arena->bytes + arena->stats_bytes;
    if (arena->space.free_bytes() >= kReserveBytes && arena->stats_free >= kReserveHooks &&
        rewrite::fits_rel32(start, limit) && rewrite::fits_rel32(limit, start) &&
        rewrite::fits_rel32(end, arena->base) && rewrite::fits_rel32(arena->base, end)) {
      return arena.get();
    }
  }
  auto arena = std::make_unique<Arena>();
  arena->bytes = kArenaCodeBytes;
  arena->stats_bytes = static_cast<size_t>(possible_cpus()) << kStatsCpuShift;
  Result<ScopedFd> stats_file = make_stats_file(arena->stats_bytes);
  if (!stats_file) return stats_file.error();
  arena->stats_fd = std::move(*stats_file);
  void* view = mmap(nullptr, arena->stats_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                    arena->stats_fd.get(), 0);
  if (view == MAP_FAILED) return fail(ENOMEM, "no memory for counters");
  arena->stats_view = static_cast<uint8_t*>(view);
  const Result<void> mapped = map_arena(arena.get(), start, end);
  if (!mapped) return mapped.error();
  arena->stats_used.resize(HOOKS_PER_ARENA);
  // The first words of an arena are the slots through which trampolines reach the agent.
  const uint64_t slots[4] = {agent_fn(header_.push_return), agent_fn(header_.pop_return), 0, 0};
  const Result<void> wrote = put(arena->base, slots, sizeof slots);
  if (!wrote) return wrote.error();
  arena->space = CodeSpace(arena->base, arena->bytes);
  arena->space.take(sizeof slots, 16);
  arenas_.push_back(std::move(arena));
  return arenas_.back().get();
}

// The target runs meanwhile and may take the hole that we chose: look again, a few times.
Result<void> Session::map_arena(Arena* arena, uint64_t start, uint64_t end) {
  for (int attempt = 0; attempt < kHoleAttempts; ++attempt) {
    Result<std::vector<Region>> regions = read_regions(any_thread());
    if (!regions) return regions.error();
    regions_ = std::move(regions.value());
    const auto hole = find_hole(regions_, start, end, arena->bytes + arena->stats_bytes);
    if (!hole) return fail(ENOSPC, "no free address range within 2 GiB of the code");
    std::vector<MapWant> wants;
    wants.push_back(MapWant::anon(arena->bytes, PROT_READ | PROT_EXEC, MAP_FIXED_NOREPLACE, *hole));
    wants.push_back(MapWant::shared(arena->stats_fd.get(), arena->stats_bytes,
                                    PROT_READ | PROT_WRITE, *hole + arena->bytes));
    wants[1].request.flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
    const Result<void> mapped = map_all(&wants);
    if (mapped.ok()) {
      arena->base = wants[0].addr;
      arena->stats = wants[1].addr;
      return {};
    }
    if (mapped.error().errnum != EEXIST) return mapped;
    if (wants[0].addr == 0) continue;
    std::vector<MapWant> undo;
    undo.push_back(MapWant::unmap(wants[0].addr, arena->bytes));
    const Result<void> unmapped = map_all(&undo);
    if (!unmapped) return unmapped;
  }
  return fail(ENOSPC, "the process maps memory faster than we can");
}

Result<void> Session::ensure_shadows() {
  if (shadows_ != 0) return {};
  if (!has_fsgsbase()) {
    return fail(EOPNOTSUPP, "this processor or kernel has no rdfsbase: no return probes");
  }
  std::vector<MapWant> wants;
  wants.push_back(MapWant::anon(SHADOWS_BYTES, PROT_READ | PROT_WRITE, MAP_NORESERVE));
  const Result<void> mapped = map_all(&wants);
  if (!mapped) return mapped;
  shadows_ = wants[0].addr;
  return put(agent_ + header_.state_off + offsetof(agent_state, shadows), &shadows_,
             sizeof shadows_);
}

Tier Session::tier_of(const HookRequest& request) const {
  const auto image = images_.find(request.prog_id);
  const bool is_known = image != images_.end() && image->second.program != nullptr;
  if (request.kind != HookKind::kProgram || !is_known) return Tier::kFull;
  if (image->second.code) return Tier::kInline;
  return image->second.program->image.escapes_ctx ? Tier::kFull : Tier::kLite;
}

Result<Session::Change> Session::prepare(const SiteRequest& request) {
  Change change;
  change.request = request;
  const auto existing = sites_.find(request.addr);
  if (request.hooks.empty()) {
    if (existing == sites_.end()) return fail(ENOENT, "nothing is attached there");
    change.site = existing->second.get();
    change.removes = true;
    change.dropped = change.site->hooks;
    for (Patch* patch : change.site->patches()) change.steps.emplace_back().patch = patch;
    return change;
  }
  if (request.go_morestack != 0) {
    const Result<void> ready = ensure_go(request);
    if (!ready) return ready.error();
  }
  for (const HookRequest& hook : request.hooks) {
    if (hook.kind != HookKind::kProgram) continue;
    Result<void> ready = ensure_program(hook.prog_id);
    if (ready.ok()) ready = ensure_unwind(hook.prog_id);
    if (!ready) return ready.error();
    if (request.go_morestack != 0 && leaves_stack(hook.prog_id)) {
      return fail(EOPNOTSUPP,
                  "it makes tail calls from within functions: there is not enough stack beside "
                  "Go's (make them in the main program)");
    }
    if (!hook.on_return) continue;
    const Result<void> shadows = ensure_shadows();
    if (!shadows) return shadows.error();
  }
  if (existing != sites_.end()) {
    change.site = existing->second.get();
  } else {
    change.fresh = std::make_unique<Site>();
    change.site = change.fresh.get();
    change.site->request = request;
  }
  Result<void> step = plan_site(request, change.site);
  if (step.ok()) {
    register_patches(*change.site);
    step = build(&change);
    if (!step) {
      release_counters(change);
      drop_lanes(change);
    }
  }
  if (step.ok()) return change;
  // A site that was there is put right by drop_fresh().
  if (change.fresh != nullptr) unregister_patches(*change.fresh);
  return step.error();
}

// Of the site's arena, else of another that its code can reach.
Result<void> Session::take_counter(Site* site, Hook* hook) {
  hook->counted_in = site->arena;
  std::optional<uint32_t> stat = site->arena->take_stats();
  if (!stat) {
    const Result<Arena*> other =
        arena_near(site->arena->base, site->arena->base + site->arena->bytes);
    if (!other) return other.error();
    hook->counted_in = other.value();
    stat = other.value()->take_stats();
  }
  if (!stat) return fail(ENOSPC, "too many hooks in one address neighbourhood");
  hook->stat = *stat;
  return {};
}

// Hooks that stay keep their slot and counters, others get new ones.
Result<void> Session::choose_hooks(Change* change) {
  Site* site = change->site;
  change->dropped = site->hooks;
  for (const HookRequest& request : change->request.hooks) {
    const auto same =
        std::find_if(change->dropped.begin(), change->dropped.end(),
                     [&](const Hook& hook) { return hook.request.hook_id == request.hook_id; });
    Hook hook;
    hook.request = request;
    if (same != change->dropped.end()) {
      hook.slot = same->slot;
      hook.entry = same->entry;
      hook.counted_in = same->counted_in;
      hook.stat = same->stat;
      hook.stubbed = same->stubbed;
      hook.unwound_before = same->unwound_before;
      change->dropped.erase(same);
    } else {
      const Result<uint64_t> slot = allocate(site->arena, 8);
      if (!slot) return slot.error();
      hook.slot = slot.value();
      const Result<void> counted = take_counter(site, &hook);
      if (!counted) return counted;
      hook.unwound_before = unwound_at(*site);
    }
    change->hooks.push_back(hook);
  }
  return {};
}

Result<void> Session::build(Change* change) {
  const Result<void> chosen = choose_hooks(change);
  if (!chosen) return chosen;
  if (change->hooks.front().request.kind == HookKind::kSigaction) return build_filter(change);
  return build_bodies(change);
}

Result<rewrite::HookCall> Session::hook_call(Hook* hook, Change* change) {
  const Site& site = *change->site;
  // No slot changes under a thread that may be reading it: eight bytes are not one store there.
  if (hook->stubbed) {
    const Result<uint64_t> slot = allocate(site.arena, 8);
    if (!slot) return slot.error();
    change->left_slots.push_back(hook->slot);
    hook->slot = slot.value();
    hook->stubbed = false;
  }
  rewrite::HookCall call;
  call.entry_slot = hook->slot;
  call.stats = hook->counted_in->stats + hook->stat * sizeof(hook_stats);
  call.cookie = hook->request.cookie;
  call.hook_id = hook->request.hook_id;
  const bool follows_loader = hook->request.kind == HookKind::kLoaderEvent;
  hook->entry = agent_fn(follows_loader ? header_.loader_event : header_.restore_returns);
  if (hook->request.kind == HookKind::kGoResume) hook->entry = agent_fn(header_.go_resume);
  if (hook->request.kind == HookKind::kMaskSite) hook->entry = mask_function(hook->request.cookie);
  if (hook->request.kind == HookKind::kProgram) {
    const Image& image = images_.at(hook->request.prog_id);
    hook->entry = image.base + image.program->image.entry_off;
    call.ctx_read_mask = image.program->image.ctx_read_mask;
    call.escapes_ctx = image.program->image.escapes_ctx;
    call.clobbers = image.clobbers;
    call.code = image.code;
    call.entry = hook->entry;
    if (image.program->role == ProgRole::kReplace) {
      call.clobbers = rewrite::kCallClobbers;  // it may write any register's word
      call.answers = overrides(image) ? rewrite::Answers::kIfItSays : rewrite::Answers::kAlways;
    }
  } else {
    call.ctx_read_mask = hook->request.kind == HookKind::kMaskSite ? kRaxWord : 0;
    call.escapes_ctx = false;
    call.counted = false;
  }
  const Result<void> wrote = put(hook->slot, &hook->entry, sizeof hook->entry);
  if (!wrote) return wrote.error();
  return call;
}

// A body for each patch that has something to run; patches without one are switched off.
Result<void> Session::build_bodies(Change* change) {
  Site* site = change->site;
  rewrite::TrampolineSpec spec;
  spec.func_ip = site->request.addr;
  spec.site_id = site->id;
  spec.has_rdpid = has_rdpid();
  spec.stats_cpu_shift = kStatsCpuShift;
  spec.shadows = shadows_;
  spec.fs_points_at_itself = fs_points_at_itself_;
  spec.push_return_slot = site->arena->base;
  spec.pop_return_slot = site->arena->base + 8;
  if (go_pool_ != 0) {
    const Result<void> wrote = put(site->arena->base + kGoPoolSlot, &go_pool_, sizeof go_pool_);
    if (!wrote) return wrote;
  }
  std::vector<rewrite::HookCall> on_entry, on_return, last;
  for (Hook& hook : change->hooks) {
    if (!hook.request.enabled) continue;
    const Result<rewrite::HookCall> call = hook_call(&hook, change);
    if (!call) return call.error();
    // What a program at the same place finds out about the mask must not outlive the change of it.
    const bool is_last = hook.request.kind == HookKind::kMaskSite;
    (is_last ? last : hook.request.on_return ? on_return : on_entry).push_back(call.value());
  }
  on_entry.insert(on_entry.end(), last.begin(), last.end());
  const bool by_ret = change->request.exit_form == ExitForm::kRet;
  for (Patch* patch : site->patches()) {
    spec.at_entry = patch->plan.at_entry && !patch->plan.loops_to_site;
    spec.copy = patch->copy;
    // What Go does with an address of ours it looks up in tables that know copies only.
    spec.tail = nullptr;
    if (!patch->is_go) {
      spec.tail = [patch](uint64_t dest) -> Result<std::vector<uint8_t>> {
        Result<rewrite::RelocatedCode> code = rewrite::relocate(patch->window, patch->plan, dest);
        if (!code) return code.error();
        return std::move(code.value().code);
      };
    }
    if (patch->is_go) spec.go = go_stack(*site->arena, patch->has_room);
    if (patch->plan.behind_check) {
      spec.copy = patch->plan.site + patch->plan.window;
      spec.prefix = [patch](uint64_t dest) -> Result<std::vector<uint8_t>> {
        rewrite::SitePlan check = patch->plan;
        check.falls_through = false;
        Result<rewrite::RelocatedCode> code = rewrite::relocate(patch->window, check, dest);
        if (!code) return code.error();
        return std::move(code.value().code);
      };
    } else {
      spec.prefix = nullptr;
    }
    spec.on_entry = patch->is_entry ? on_entry : std::vector<rewrite::HookCall>();
    spec.on_answer = on_return;
    spec.on_return = patch->is_exit == by_ret ? on_return : std::vector<rewrite::HookCall>();
    if (!by_ret && !spec.on_return.empty() && !spec.at_entry) {
      return fail(EINVAL, "a return probe needs the start of a function");
    }
    const bool by_exit = by_ret && patch->is_exit && !spec.on_return.empty();
    const Result<void> built = put_body(site, patch, spec, by_exit, change);
    if (!built) return built;
  }
  return {};
}

Result<void> Session::put_body(Site* site, Patch* patch, rewrite::TrampolineSpec spec, bool by_exit,
                               Change* change) {
  ChangeStep& step = change->steps.emplace_back();
  step.patch = patch;
  if (spec.on_entry.empty() && spec.on_return.empty()) return {};
  for (const auto* calls : {&spec.on_entry, &spec.on_return}) {
    for (const rewrite::HookCall& call : *calls) step.calls.push_back(call.entry_slot);
  }
  const bool answers = std::any_of(
      spec.on_entry.begin(), spec.on_entry.end(),
      [](const rewrite::HookCall& call) { return call.answers != rewrite::Answers::kNever; });
  for (const rewrite::HookCall& call : spec.on_answer) {
    if (answers) step.calls.push_back(call.entry_slot);
  }
  step.calls.insert(step.calls.end(), {by_exit, spec.at_entry, spec.on_entry.size()});
  for (const Lane& lane : patch->lanes) {
    if (lane.calls != step.calls) continue;
    step.body = lane.body;
    step.body_bytes = lane.body_bytes;
    return {};
  }
  const auto build = [&](uint64_t at) {
    spec.body = at;
    if (!by_exit) return rewrite::build_trampoline(spec);
    rewrite::ExitSpec exit;
    exit.prefix = [patch](uint64_t dest) -> Result<std::vector<uint8_t>> {
      Result<rewrite::RelocatedCode> code =
          rewrite::relocate_exit_prefix(patch->window, patch->plan, dest);
      if (!code) return code.error();
      return std::move(code.value().code);
    };
    exit.ret = rewrite::exit_ret(patch->window, patch->plan);
    return rewrite::build_exit(spec, exit);
  };
  return put_code(site->arena, build, &step);
}

// Builds code once to learn its size, which does not depend on where it lies, and once where it
// will be: a patch's first right behind its head.
Result<void> Session::put_code(Arena* arena, const CodeBuilder& build, ChangeStep* step) {
  const Result<rewrite::Trampoline> draft = build(arena->base);
  if (!draft) return draft.error();
  Patch& patch = *step->patch;
  const bool is_first = patch.head == 0;
  const uint64_t head_bytes = is_first ? rewrite::kHeadBytes : 0;
  const Result<uint64_t> at =
      allocate(arena, head_bytes + draft.value().code.size(), is_first ? rewrite::kBlockAlign : 0);
  if (!at) return at.error();
  if (is_first) {
    const uint64_t head = at.value() + rewrite::kBeforeHead;
    const Result<void> headed = put_head(head, patch.copy, &patch.lanes);
    if (!headed) return headed;
    patch.head = head;
    patch.new_bytes = site_bytes(patch, patch.head);
    step->made_head = true;
  }
  const Result<rewrite::Trampoline> trampoline = build(at.value() + head_bytes);
  if (!trampoline) return trampoline.error();
  const std::vector<uint8_t>& code = trampoline.value().code;
  step->body = at.value() + head_bytes;
  step->body_bytes = static_cast<uint32_t>(code.size());
  return put(step->body, code.data(), code.size());
}

// The body for a site of rt_sigaction; the agent decides per call.
Result<void> Session::build_filter(Change* change) {
  Arena* arena = change->site->arena;
  Patch* patch = change->site->entry.get();
  const uint64_t call = patch->plan.site + patch->plan.window;
  uint8_t insn[2] = {};
  const Result<void> read = get(call, insn, sizeof insn);
  if (!read || patch->plan.window != 5 || insn[0] != 0x0f || insn[1] != 0x05) {
    return fail(EINVAL, "no system call follows the site");
  }
  const Result<uint64_t> slot = allocate(arena, 8);
  if (!slot) return slot.error();
  const uint64_t entry = agent_fn(header_.sigaction);
  const Result<void> wrote = put(slot.value(), &entry, sizeof entry);
  if (!wrote) return wrote.error();
  ChangeStep& step = change->steps.emplace_back();
  step.patch = patch;
  step.calls = {slot.value()};
  return put_code(
      arena,
      [&](uint64_t at) {
        rewrite::FilterSpec spec;
        spec.body = at;
        spec.copy = patch->copy;
        spec.behind = call + 2;
        spec.filter_slot = slot.value();
        if (patch->is_go) spec.go = go_stack(*arena, false);
        return rewrite::build_filter(spec);
      },
      &step);
}

}  // namespace bpftime::target

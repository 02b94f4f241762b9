// SPDX-License-Identifier: MIT
// Session, the part that goes on where a killed daemon stopped: finds its journal in the target,
// takes what it says apart, compares it with what is really there, and makes the last change
// (again).
//
// Nothing of the target is changed before everything that was read made sense.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "journal.h"
#include "remote_thread.h"
#include "session.h"
#include "session_parts.h"
#include "session_state.h"
#include "stopped_process.h"

extern "C" {
extern const uint8_t bpftime_agent_blob[] __attribute__((visibility("hidden")));
extern const uint8_t bpftime_agent_blob_end[] __attribute__((visibility("hidden")));
}

namespace bpftime::target {

namespace {

const Region* journal_region(const std::vector<Region>& regions) {
  for (const Region& region : regions) {
    // The kernel appends ` (deleted)`.
    if (region.path.starts_with(kJournalPath) && region.file_off == 0) return &region;
  }
  return nullptr;
}

// An agent's first page, 0 if there is none.
uint64_t agent_region(pid_t pid, const std::vector<Region>& regions, agent_header* header) {
  for (const Region& region : regions) {
    if (!region.exec || region.write || region.inode != 0 || !region.path.empty()) continue;
    if (read_memory(pid, region.start, header, sizeof *header).ok() &&
        header->magic == AGENT_MAGIC && header->version == AGENT_V6 &&
        header->state_off < (1u << 20)) {
      return region.start;
    }
  }
  return 0;
}

Result<agent_state> agent_state_of(pid_t pid, const std::vector<Region>& regions) {
  agent_header header{};
  agent_state state{};
  const uint64_t agent = agent_region(pid, regions, &header);
  if (agent == 0 || !read_memory(pid, agent + header.state_off, &state, sizeof state).ok()) {
    return fail(ENOENT, "no session is in the process");
  }
  return state;
}

MapSpec spec_of(const MapState& map) {
  MapSpec spec;
  spec.type = map.type;
  spec.key_size = map.key_size;
  spec.value_size = map.value_size;
  spec.max_entries = map.max_entries;
  spec.flags = map.flags;
  spec.name = map.name.c_str();
  return spec;
}

HookRequest request_of(const HookState& state) {
  HookRequest request;
  request.hook_id = state.hook_id;
  request.kind = static_cast<HookKind>(state.kind);
  request.prog_id = state.prog_id;
  request.on_return = state.on_return;
  request.enabled = state.enabled;
  request.cookie = state.cookie;
  return request;
}

}  // namespace

Result<JournalOwner> Session::owner_of(pid_t pid) {
  const Result<std::vector<Region>> regions = read_regions(living_thread(pid));
  if (!regions) return regions.error();
  const Region* page = journal_region(regions.value());
  if (page == nullptr) {
    Result<agent_state> state = agent_state_of(pid, regions.value());
    if (!state) return state.error();
    return JournalOwner{state->owner_start, state->owner_tracer, state->owner_daemon};
  }
  return Journal::read_owner([pid, page](uint64_t off, void* out, size_t size) {
    return off + size <= page->end - page->start &&
           read_memory(pid, page->start + off, out, size).ok();
  });
}

Result<pid_t> Session::home_of(pid_t pid) {
  const Result<std::vector<Region>> regions = read_regions(living_thread(pid));
  if (!regions) return regions.error();
  Result<agent_state> state = agent_state_of(pid, regions.value());
  if (!state) return state.error();
  return state->home;
}

// Between entering and the first attach an agent is alone in a process, without a journal.
Result<SessionState> Session::read_bare_agent() const {
  const Result<JournalOwner> owner = owner_of(pid_);
  if (!owner) return owner.error();
  if (owner.value().alive()) return fail(EBUSY, "another bpftimefs is in this process");
  // A child of fork has hooks that only its parent's journal knows: without its agent it would die.
  const Result<pid_t> home = home_of(pid_);
  if (!home) return home.error();
  if (home.value() != pid_) return fail(EBUSY, "its hooks are another process'");
  SessionState state;
  state.agent = agent_region(pid_, regions_, &state.header);
  state.agent_bytes = uint64_t{state.header.data_off} + state.header.data_bytes;
  // The same is asked of it as of a journal.
  return target::decode(encode(state));
}

Result<std::unique_ptr<Session>> Session::adopt(pid_t pid) {
  std::unique_ptr<Session> session(new Session(pid));
  Result<void> step = session->open_handles();
  if (!step) return step.error();
  const Result<SessionState> state = session->read_journal();
  if (!state) return state.error();
  step = session->restore(state.value());
  if (!step) return step.error();
  if (session->journal_ != nullptr) {
    step = session->journal_->take_over();
    if (!step) return step.error();
  }
  step = session->settle_in();
  if (!step) return step.error();
  step = session->redo(state.value());
  if (!step) return step.error();
  return session;
}

// Says in the agent who is here, and where that is. Children of fork inherit it.
Result<void> Session::settle_in() {
  agent_state state{};
  const uint64_t at = agent_ + header_.state_off;
  Result<void> step = get(at, &state, sizeof state);
  if (!step) return step;
  const JournalOwner us = JournalOwner::ourselves();
  state.owner_start = us.start_time;
  state.owner_tracer = us.tracer;
  state.owner_daemon = us.daemon;
  state.home = pid_;
  constexpr size_t kFirst = offsetof(agent_state, owner_start);
  return put(at + kFirst, &state.owner_start, sizeof state - kFirst);
}

Result<SessionState> Session::read_journal() {
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  const Region* page = journal_region(regions_);
  if (page == nullptr) return read_bare_agent();
  journal_page_ = page->start;
  Result<JournalOwner> owner = owner_of(pid_);
  if (!owner) return owner.error();
  if (owner->alive()) return fail(EBUSY, "another bpftimefs is in this process");
  Result<std::unique_ptr<Journal>> journal = Journal::open_in(pid_, *page);
  Result<Parts> parts = fail(EPERM, "its journal cannot be opened");
  if (journal.ok()) {
    journal_ = std::move(*journal);
    parts = Journal::read_parts(journal_->source());
  } else if (journal.error().errnum == EPERM || journal.error().errnum == EACCES) {
    parts = read_mapped_journal();
  } else {
    return journal.error();
  }
  if (!parts) return parts.error();
  Result<SessionState> state = target::decode(parts.value());
  if (!state) return state.error();
  if (state->pid != static_cast<uint64_t>(pid_) || state->start_time != start_time_) {
    return fail(ESTALE, "its journal is another process'");
  }
  state->journal_page = journal_page_;
  return state;
}

// Without the right to open the file there is still the right to trace: the target shows it to us.
Result<Parts> Session::read_mapped_journal() {
  auto thread = RemoteThread::stop(pid_, any_thread());
  if (!thread) return thread.error();
  const Result<int64_t> grown =
      thread.value()->syscall(syscall_insn_, SYS_mremap, journal_page_, ABI_PAGE_BYTES,
                              kJournalStatesBytes, MREMAP_MAYMOVE);
  if (!grown) return grown.error();
  if (grown.value() < 0) return fail(static_cast<int>(-grown.value()), "its journal is not shown");
  const auto base = static_cast<uint64_t>(grown.value());
  Result<Parts> parts = Journal::read_parts([this, base](uint64_t off, void* out, size_t size) {
    return off + size <= kJournalStatesBytes && get(base + off, out, size).ok();
  });
  const Result<int64_t> shrunk =
      thread.value()->syscall(syscall_insn_, SYS_mremap, base, kJournalStatesBytes, ABI_PAGE_BYTES);
  journal_page_ = base;
  if (!shrunk) return shrunk.error();
  return parts;
}

Result<void> Session::restore(const SessionState& state) {
  enter_ns_ = state.enter_ns;
  agent_ = state.agent;
  agent_bytes_ = state.agent_bytes;
  control_ = agent_ + agent_bytes_;
  shadows_ = state.shadows;
  header_ = state.header;
  // The signals change hands in the stop of a change that the journal only announces.
  uint32_t guard_mode = 0;
  static_cast<void>(
      get(agent_ + header_.env_off + offsetof(rt_env, guard_mode), &guard_mode, sizeof guard_mode));
  no_stop_ = state.no_stop;
  guard_armed_ = state.guard_armed || guard_mode == 1;
  fs_points_at_itself_ = state.fs_points_at_itself;
  go_pool_ = state.go_pool;
  go_resumes_ = state.go_resumes;
  go_offset_ = state.go_offset;
  next_site_id_ = state.next_site_id;
  for (const NoteState& note : state.notes) notes_[note.key] = note.text;
  journal_page_ = state.journal_page;
  Result<void> step = check_program();
  if (!step) return step;
  // Helpers of another build may do other things: its hooks are only taken out.
  const auto blob_bytes = static_cast<size_t>(bpftime_agent_blob_end - bpftime_agent_blob);
  std::vector<uint8_t> text(std::min<size_t>(header_.data_off, blob_bytes));
  can_keep_ = journal_ != nullptr && get(agent_, text.data(), text.size()).ok() &&
              memcmp(text.data(), bpftime_agent_blob, text.size()) == 0;
  for (const MapState& map : state.maps) {
    step = restore_map(map, map.id == state.log_id);
    if (!step) return step;
  }
  if (log_ == nullptr) {
    if (can_keep_) return fail(EINVAL, "its journal makes no sense");
    Result<std::shared_ptr<MapObject>> log = create_log();
    if (!log) return log.error();
    log_ = std::move(*log);
  }
  for (const ArenaState& arena : state.arenas) {
    step = restore_arena(arena);
    if (!step) return step;
  }
  for (const ImageState& image : state.images) {
    images_[image.prog_id] = Image{nullptr, image.base, image.bytes, 0, image.clobbers, {}, {}, {}};
  }
  for (const ArenaState& range : state.ranges) {
    former_code_.emplace_back(range.base, range.base + range.bytes);
  }
  for (const SiteState& site : state.sites) {
    step = restore_site(site);
    if (!step) return step;
  }
  // Nobody hears of modules through the former daemon's page any more.
  const uint64_t none = 0;
  return put(agent_ + header_.state_off + offsetof(agent_state, gate), &none, sizeof none);
}

Result<void> Session::restore_map(const MapState& map, bool is_log) {
  const Region* region = region_at(regions_, map.addr);
  if (region == nullptr || region->start != map.addr || region->end - map.addr != map.bytes) {
    return fail(EINVAL, "a map of its journal is not mapped");
  }
  if (!can_keep_) {
    former_code_.emplace_back(map.addr, map.addr + map.bytes);
    return {};
  }
  Result<ScopedFd> storage = open_mapped_memfd(pid_, *region);
  if (!storage) return storage.error();
  Result<std::shared_ptr<MapObject>> ours = adopt_map(spec_of(map), std::move(*storage));
  if (!ours) return ours.error();
  const uint32_t id = (*ours)->id;
  map_addrs_[id] = map.addr;
  map_bytes_[id] = map.bytes;
  if (is_log) {
    log_ = std::move(*ours);
    former_log_id_ = map.id;
  } else {
    adopted_.emplace_back(map.id, std::move(*ours));
  }
  return {};
}

Result<void> Session::restore_arena(const ArenaState& state) {
  auto arena = std::make_unique<Arena>();
  arena->base = state.base;
  arena->bytes = state.bytes;
  arena->space = CodeSpace(state.base + state.used, state.bytes - state.used);
  arena->stats = state.stats;
  arena->stats_bytes = state.stats_bytes;
  arena->stats_used.assign(HOOKS_PER_ARENA, false);
  std::fill_n(arena->stats_used.begin(), state.stats_used, true);
  arena->stats_free = HOOKS_PER_ARENA - state.stats_used;
  const Region* code = region_at(regions_, state.base);
  const Region* stats = region_at(regions_, state.stats);
  const size_t wanted = static_cast<size_t>(possible_cpus()) << kStatsCpuShift;
  if (code == nullptr || code->write || code->inode != 0 || code->end < state.base + state.bytes ||
      stats == nullptr || stats->start != state.stats || stats->end < state.stats + wanted ||
      state.stats_bytes != wanted) {
    return fail(EINVAL, "a code arena of its journal is not mapped");
  }
  if (can_keep_) {
    Result<ScopedFd> file = open_mapped_memfd(pid_, *stats);
    if (!file) return file.error();
    if (lseek(file->get(), 0, SEEK_END) != static_cast<off_t>(wanted)) {
      return fail(EINVAL, "the counters of its journal are of another size");
    }
    void* view = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
    if (view == MAP_FAILED) return fail(ENOMEM, "no memory for counters");
    arena->stats_view = static_cast<uint8_t*>(view);
    arena->stats_fd = std::move(*file);
  }
  arenas_.push_back(std::move(arena));
  return {};
}

Result<std::unique_ptr<Session::Patch>> Session::restore_patch(const PatchState& state) {
  auto patch = std::make_unique<Patch>();
  patch->plan.site = state.site;
  patch->plan.window = state.window;
  patch->plan.count = state.count;
  patch->plan.keeps = state.keeps;
  patch->plan.at_entry = state.at_entry;
  patch->plan.falls_through = state.falls_through;
  patch->plan.loops_to_site = state.loops_to_site;
  patch->plan.behind_check = state.behind_check;
  patch->plan.form = static_cast<rewrite::SiteForm>(state.form);
  patch->plan.pad = state.pad;
  patch->landing = state.landing;
  patch->landing_bytes = state.landing_bytes;
  patch->pad_old = state.pad_old;
  patch->is_go = state.is_go;
  patch->has_room = state.has_room;
  patch->may_fault = state.may_fault;
  patch->is_fresh = false;
  patch->is_exit = state.is_exit;
  patch->is_entry = state.is_entry;
  patch->old_bytes = state.old_bytes;
  patch->head = state.head;
  patch->copy = state.copy;
  patch->lane = state.lane;
  patch->lanes = restore_lanes(state.lanes);
  if (patch->head != 0) patch->new_bytes = site_bytes(*patch, state.head);
  const auto none = [](uint64_t, void*, size_t) { return false; };
  Result<rewrite::FunctionView> window =
      rewrite::decode_function(state.site, state.window, state.old_bytes, none);
  if (!window) return window.error();
  if (window->insns.size() < state.count) return fail(EINVAL, "its journal makes no sense");
  patch->window = std::move(*window);
  Result<rewrite::RelocatedCode> copy = rewrite::relocate(patch->window, patch->plan, patch->copy);
  if (!copy) return copy.error();
  patch->pc_map = std::move(copy->map);
  patch->copy_bytes = std::move(copy->code);
  // What counts is what is there. What is neither of the two is somebody else's jump over ours:
  // then the journal knows best, and our code must stay.
  std::vector<uint8_t> seen(state.window);
  std::vector<uint8_t> copied(patch->copy_bytes.size());
  const Result<void> read = get(state.site, seen.data(), seen.size());
  patch->on = read.ok() && (seen == patch->new_bytes || (state.on && seen != patch->old_bytes));
  patch->body = state.body;
  patch->body_bytes = state.body_bytes;
  if (!get(patch->copy, copied.data(), copied.size()) || copied != patch->copy_bytes) {
    return fail(EINVAL, "the code of its journal is not what is there");
  }
  return patch;
}

std::vector<Session::Lane> Session::restore_lanes(const std::vector<LaneState>& states) {
  std::vector<Lane> lanes;
  for (const LaneState& state : states) {
    lanes.push_back({state.body, state.body_bytes, state.calls});
  }
  return lanes;
}

std::vector<Session::Hook> Session::restore_hooks(const std::vector<HookState>& states) const {
  std::vector<Hook> hooks;
  for (const HookState& state : states) {
    Hook hook;
    hook.request = request_of(state);
    hook.slot = state.slot;
    hook.entry = state.entry;
    hook.counted_in = arenas_[state.counted_in].get();
    hook.stat = state.stat;
    hook.unwound_before = state.unwound_before;
    hook.stubbed = state.stubbed;
    hooks.push_back(hook);
  }
  return hooks;
}

Result<void> Session::restore_site(const SiteState& state) {
  auto site = std::make_unique<Site>();
  site->id = state.id;
  site->arena = arenas_[state.arena].get();
  site->inode = state.inode;
  site->exits_planned = site->exits_settled = state.exits_planned;
  site->hooks = restore_hooks(state.hooks);
  site->request.addr = state.addr;
  site->request.function = state.function;
  site->request.function_size = state.function_size;
  site->request.go_morestack = state.go_morestack;
  site->request.go_morestack_size = state.go_morestack_size;
  site->request.exit_form = static_cast<ExitForm>(state.exit_form);
  for (const PatchState& one : state.patches) {
    Result<std::unique_ptr<Patch>> patch = restore_patch(one);
    if (!patch) return patch.error();
    if (one.is_entry) {
      site->entry = std::move(*patch);
    } else {
      site->exits.push_back(std::move(*patch));
    }
  }
  for (const Patch* patch : site->patches()) {
    const uint64_t page = patch->landing & ~uint64_t{ABI_PAGE_BYTES - 1};
    if (page != 0) landings_.emplace_back(page, page + patch->landing_bytes);
  }
  for (const Hook& hook : site->hooks) {
    site->request.hooks.push_back(hook.request);
    const auto image = images_.find(hook.request.prog_id);
    if (hook.request.kind != HookKind::kProgram) continue;
    if (image == images_.end()) return fail(EINVAL, "its journal makes no sense");
    ++image->second.users;
  }
  register_patches(*site);
  sites_[state.addr] = std::move(site);
  return {};
}

// Is the site's text, with what lies between it and the head, a jump to `head`?
Result<bool> Session::leads_to(const Patch& patch, uint64_t head) const {
  const std::vector<uint8_t> jump = site_bytes(patch, head);
  std::vector<uint8_t> seen(jump.size());
  Result<void> read = get(patch.plan.site, seen.data(), seen.size());
  if (!read) return read.error();
  if (seen != jump) return false;
  const Relay relay = relay_of(patch, head);
  seen.resize(relay.bytes.size());
  if (!seen.empty()) read = get(relay.addr, seen.data(), seen.size());
  if (!read) return read.error();
  return seen == relay.bytes;
}

Result<Session::ChangeStep> Session::restore_step(Patch* patch, const StepState& state) const {
  ChangeStep step;
  step.patch = patch;
  step.body = state.body;
  step.body_bytes = state.body_bytes;
  step.calls = state.calls;
  if (state.head == 0) return step;
  // The text may lead to the new head already.
  const Result<bool> leads = leads_to(*patch, state.head);
  if (!leads) return leads.error();
  if (!leads.value()) return step;
  patch->head = state.head;
  patch->lanes = restore_lanes(state.lanes);
  patch->new_bytes = site_bytes(*patch, state.head);
  patch->on = true;
  return step;
}

// The last change may have been made not at all, in part or as a whole. Making it again is right in
// each case: bytes that are there are written once more.
Result<void> Session::redo(const SessionState& state) {
  std::vector<Change> changes;
  for (const ChangeState& one : state.changes) {
    const auto at = sites_.find(one.addr);
    if (at == sites_.end()) return fail(EINVAL, "its journal makes no sense");
    Change change;
    change.site = at->second.get();
    change.removes = one.removes;
    change.request = change.site->request;
    change.request.exit_form = static_cast<ExitForm>(one.exit_form);
    change.request.lets_finish = one.lets_finish;
    change.hooks = restore_hooks(one.hooks);
    change.dropped = restore_hooks(one.dropped);
    change.request.hooks.clear();
    for (const Hook& hook : change.hooks) {
      change.request.hooks.push_back(hook.request);
      const bool is_program = hook.request.kind == HookKind::kProgram;
      if (is_program && !images_.contains(hook.request.prog_id)) {
        return fail(EINVAL, "its journal makes no sense");
      }
    }
    for (const Hook& hook : change.dropped) {
      const bool is_program = hook.request.kind == HookKind::kProgram;
      if (is_program && !images_.contains(hook.request.prog_id)) {
        return fail(EINVAL, "its journal makes no sense");
      }
    }
    const std::vector<Patch*> patches = change.site->patches();
    change.left_slots = one.left_slots;
    for (size_t i = 0; i < patches.size(); ++i) {
      Result<ChangeStep> step = restore_step(patches[i], one.steps[i]);
      if (!step) return step.error();
      change.steps.push_back(std::move(*step));
    }
    changes.push_back(std::move(change));
  }
  if (!changes.empty()) {
    const Result<ApplyReport> done = commit(&changes);
    if (!done) return done.error();
  }
  // A site that was being made when the change failed has no hooks: it goes.
  for (auto it = sites_.begin(); it != sites_.end();) {
    if (!it->second->hooks.empty()) {
      ++it;
      continue;
    }
    unregister_patches(*it->second);
    it = sites_.erase(it);
  }
  unsaved_.all = true;
  save();
  return {};
}

std::vector<SiteRequest> Session::site_requests() const {
  std::vector<SiteRequest> requests;
  for (const auto& [addr, site] : sites_) requests.push_back(site->request);
  return requests;
}

std::vector<std::pair<uint32_t, uint32_t>> Session::adopted_maps() const {
  std::vector<std::pair<uint32_t, uint32_t>> ids;
  for (const auto& [former, map] : adopted_) ids.emplace_back(former, map->id);
  return ids;
}

Result<void> Session::bind(const std::vector<std::pair<uint32_t, uint32_t>>& programs,
                           Notes notes) {
  if (!can_keep_) return fail(EPERM, "its maps cannot be opened by us");
  std::unordered_map<uint32_t, Image> bound;
  std::unordered_map<uint32_t, uint32_t> now;
  for (const auto& [former, id] : programs) {
    const std::shared_ptr<ProgObject> program = find_prog(id);
    const auto image = images_.find(former);
    if (program == nullptr || image == images_.end()) continue;
    if (program->image.tail_calls) return fail(EOPNOTSUPP, "it makes tail calls");
    std::vector<uint8_t> text(program->image.text.size());
    if (text.size() > image->second.bytes || !get(image->second.base, text.data(), text.size()) ||
        text != program->image.text) {
      return fail(ENOEXEC, "its programs were compiled by another build");
    }
    now[former] = id;
    bound[id] = image->second;
    bound[id].program = program;
    learn_code(&bound[id]);
  }
  for (const auto& [addr, site] : sites_) {
    for (const Hook& hook : site->hooks) {
      if (hook.request.kind == HookKind::kProgram && !now.contains(hook.request.prog_id)) {
        return fail(EINVAL, "a program of its journal has no object");
      }
    }
  }
  for (const auto& [id, image] : images_) {
    if (!now.contains(id)) former_code_.emplace_back(image.base, image.base + image.bytes);
  }
  images_ = std::move(bound);
  for (const auto& [addr, site] : sites_) {
    for (Hook& hook : site->hooks) {
      if (hook.request.kind == HookKind::kProgram) {
        hook.request.prog_id = now[hook.request.prog_id];
      }
    }
    for (HookRequest& request : site->request.hooks) {
      if (request.kind == HookKind::kProgram) request.prog_id = now[request.prog_id];
    }
  }
  adopted_.clear();
  former_log_id_ = 0;
  // In one step: programs, maps and notes speak of the same ids at every instant.
  notes_ = std::move(notes);
  unsaved_.all = true;
  save();
  return {};
}

}  // namespace bpftime::target

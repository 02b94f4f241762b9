// SPDX-License-Identifier: MIT
// Session, the part that writes things down: after each step the journal in the target says all
// that the next daemon must know (docs/adr/0011). Encoding is in session_state.cc.
#include <algorithm>

#include "journal.h"
#include "session.h"
#include "session_parts.h"
#include "session_state.h"

namespace bpftime::target {

namespace {

MapState map_state(const MapObject& map, uint64_t addr) {
  MapState state;
  state.id = map.id;
  state.addr = addr;
  state.bytes = map.view.storage_bytes;
  state.type = map.view.type;
  state.key_size = map.view.key_size;
  state.value_size = map.view.value_size;
  state.max_entries = map.view.max_entries;
  state.flags = map.view.map_flags;
  state.name = map.name;
  return state;
}

ArenaState range_state(uint64_t start, uint64_t end) {
  ArenaState range;
  range.base = start;
  range.bytes = ((end + 4095) & ~uint64_t{4095}) - start;
  return range;
}

}  // namespace

Result<void> Session::ensure_journal() {
  if (journal_ != nullptr) return {};
  Result<std::unique_ptr<Journal>> made = Journal::create();
  if (!made) return made.error();
  journal_ = std::move(*made);
  return {};
}

uint32_t Session::index_of(const Arena* arena) const {
  uint32_t index = 0;
  for (size_t i = 0; i < arenas_.size(); ++i) {
    if (arenas_[i].get() == arena) index = static_cast<uint32_t>(i);
  }
  return index;
}

std::vector<HookState> Session::hook_states(const std::vector<Hook>& hooks) const {
  std::vector<HookState> states;
  for (const Hook& hook : hooks) {
    HookState state;
    state.hook_id = hook.request.hook_id;
    state.prog_id = hook.request.prog_id;
    state.kind = static_cast<uint8_t>(hook.request.kind);
    state.on_return = hook.request.on_return;
    state.enabled = hook.request.enabled;
    state.stubbed = hook.stubbed;
    state.cookie = hook.request.cookie;
    state.slot = hook.slot;
    state.entry = hook.entry;
    state.counted_in = index_of(hook.counted_in);
    state.stat = hook.stat;
    state.unwound_before = hook.unwound_before;
    states.push_back(state);
  }
  return states;
}

std::vector<LaneState> Session::lane_states(const std::vector<Lane>& lanes) {
  std::vector<LaneState> states;
  for (const Lane& lane : lanes) states.push_back({lane.body, lane.body_bytes, lane.calls});
  return states;
}

SiteState Session::site_state(const Site& site) const {
  SiteState state;
  state.id = site.id;
  state.addr = site.request.addr;
  state.function = site.request.function;
  state.function_size = site.request.function_size;
  state.go_morestack = site.request.go_morestack;
  state.go_morestack_size = site.request.go_morestack_size;
  state.exit_form = static_cast<uint8_t>(site.request.exit_form);
  state.inode = site.inode;
  state.exits_planned = site.exits_planned;
  state.hooks = hook_states(site.hooks);
  state.arena = index_of(site.arena);
  for (const Patch* patch : site.patches()) {
    PatchState one;
    one.site = patch->plan.site;
    one.window = patch->plan.window;
    one.count = patch->plan.count;
    one.keeps = patch->plan.keeps;
    one.at_entry = patch->plan.at_entry;
    one.falls_through = patch->plan.falls_through;
    one.loops_to_site = patch->plan.loops_to_site;
    one.behind_check = patch->plan.behind_check;
    one.is_go = patch->is_go;
    one.has_room = patch->has_room;
    one.may_fault = patch->may_fault;
    one.is_exit = patch->is_exit;
    one.is_entry = patch->is_entry;
    one.on = patch->on;
    one.form = static_cast<uint8_t>(patch->plan.form);
    one.pad = patch->plan.pad;
    one.landing = patch->landing;
    one.landing_bytes = patch->landing_bytes;
    one.pad_old = patch->pad_old;
    one.old_bytes = patch->old_bytes;
    one.head = patch->head;
    one.copy = patch->copy;
    one.body = patch->body;
    one.body_bytes = patch->body_bytes;
    one.lane = static_cast<uint32_t>(patch->lane);
    one.lanes = lane_states(patch->lanes);
    state.patches.push_back(std::move(one));
  }
  return state;
}

// Memory of ours that is only to be unmapped in the end, added to `states`.
std::vector<ArenaState> Session::range_states(std::vector<ArenaState> states) const {
  for (const auto* ranges : {&orphans_, &former_code_}) {
    for (const auto& [start, end] : *ranges) states.push_back(range_state(start, end));
  }
  // Landings of sites go with these; the others are only to be unmapped.
  std::set<uint64_t> lived;
  if (!landings_.empty()) {
    for (const auto& [addr, held] : held_) lived.insert(held.patch->landing);
  }
  std::set<std::pair<uint64_t, uint64_t>> left;
  for (const auto& [start, end] : landings_) {
    const auto landing = lived.lower_bound(start);
    if (landing == lived.end() || *landing >= end) left.emplace(start, end);
  }
  for (const auto& [start, end] : left) states.push_back(range_state(start, end));
  if (gate_ != 0) states.push_back(range_state(gate_, gate_ + ABI_PAGE_BYTES));
  return states;
}

SessionState Session::state_without_lists() const {
  SessionState state;
  state.pid = static_cast<uint64_t>(pid_);
  state.start_time = start_time_;
  state.enter_ns = enter_ns_;
  state.agent = agent_;
  state.agent_bytes = agent_bytes_;
  state.journal_page = journal_page_;
  state.shadows = shadows_;
  state.header = header_;
  state.no_stop = no_stop_;
  state.guard_armed = guard_armed_;
  state.fs_points_at_itself = fs_points_at_itself_;
  state.go_pool = go_pool_;
  state.go_resumes = go_resumes_;
  state.go_offset = go_offset_;
  state.next_site_id = next_site_id_;
  state.log_id = former_log_id_ != 0 ? former_log_id_ : log_->id;
  for (const auto& arena : arenas_) {
    ArenaState one;
    one.base = arena->base;
    one.bytes = arena->bytes;
    // What lies between taken pieces and is free is not said: it is taken until the session ends.
    one.used = arena->bytes - arena->space.free_at_end(arena->base + arena->bytes);
    one.stats = arena->stats;
    one.stats_bytes = arena->stats_bytes;
    const auto last = std::find(arena->stats_used.rbegin(), arena->stats_used.rend(), true);
    one.stats_used = static_cast<uint32_t>(arena->stats_used.rend() - last);
    state.arenas.push_back(one);
  }
  state.ranges = range_states({});
  return state;
}

// A map that no program uses any more is memory to be unmapped, nothing else. Until programs are
// bound maps have the ids that their notes know.
void Session::add_map_state(uint32_t id, uint64_t addr, SessionState* state) const {
  const std::shared_ptr<MapObject> map = find_map(id);
  const auto bytes = map_bytes_.find(id);
  if (map == nullptr) {
    if (bytes != map_bytes_.end()) state->ranges.push_back(range_state(addr, addr + bytes->second));
    return;
  }
  state->maps.push_back(map_state(*map, addr));
  uint32_t& noted = state->maps.back().id;
  if (former_log_id_ != 0 && id == log_->id) noted = former_log_id_;
  for (const auto& [former, adopted] : adopted_) {
    if (adopted->id == id) noted = former;
  }
}

// Everything but changes that are under way.
SessionState Session::state() const {
  SessionState state = state_without_lists();
  for (const auto& [id, addr] : map_addrs_) add_map_state(id, addr, &state);
  for (const auto& [id, image] : images_) {
    state.images.push_back({id, image.base, image.bytes, image.clobbers});
  }
  for (const auto& [addr, site] : sites_) state.sites.push_back(site_state(*site));
  for (const auto& [key, text] : notes_) state.notes.push_back({key, text});
  return state;
}

std::vector<ChangeState> Session::change_states(const std::vector<Change>& changes) const {
  std::vector<ChangeState> states;
  for (const Change& change : changes) {
    ChangeState& one = states.emplace_back();
    one.addr = change.request.addr;
    one.exit_form = static_cast<uint8_t>(change.request.exit_form);
    one.removes = change.removes;
    one.lets_finish = change.request.lets_finish;
    one.hooks = hook_states(change.hooks);
    one.dropped = hook_states(change.dropped);
    one.left_slots = change.left_slots;
    for (const Change::Step& step : change.steps) {
      one.steps.push_back(
          {step.body, step.body_bytes, step.calls, step.head, lane_states(step.lanes)});
    }
  }
  return states;
}

// What became of each thing that is marked, and the little that is said each time.
Step Session::unsaved_step(const std::vector<Change>* changes) const {
  SessionState some = state_without_lists();
  Step step;
  for (const auto& [addr, id] : unsaved_.maps) {
    step[part_key(PartKind::kMap, addr)];
    const auto known = map_addrs_.find(id);
    if (known != map_addrs_.end() && known->second == addr) add_map_state(id, addr, &some);
  }
  for (const uint32_t id : unsaved_.images) {
    step[part_key(PartKind::kImage, id)];
    const auto known = images_.find(id);
    if (known == images_.end()) continue;
    const Image& image = known->second;
    some.images.push_back({id, image.base, image.bytes, image.clobbers});
  }
  for (const uint64_t addr : unsaved_.sites) {
    step[part_key(PartKind::kSite, addr)];
    const auto known = sites_.find(addr);
    if (known != sites_.end()) some.sites.push_back(site_state(*known->second));
  }
  for (const uint64_t key : unsaved_.notes) {
    step[part_key(PartKind::kNote, key)];
    const auto known = notes_.find(key);
    if (known != notes_.end()) some.notes.push_back({key, known->second});
  }
  step[part_key(PartKind::kChanges)];
  if (changes != nullptr) some.changes = change_states(*changes);
  for (auto& [key, part] : encode(some)) step[key] = std::move(part);
  return step;
}

// A journal that cannot be written (no memory) is worth less than the probe that was asked for: the
// old state stays readable, and the next save writes what this one did not.
void Session::save(const std::vector<Change>* changes) {
  if (journal_ == nullptr) return;
  Result<void> saved;
  if (unsaved_.all) {
    SessionState whole = state();
    if (changes != nullptr) whole.changes = change_states(*changes);
    saved = journal_->rewrite(encode(whole));
  } else {
    saved = journal_->write(unsaved_step(changes));
  }
  if (!saved) return;
  unsaved_ = {};
  unsaved_.all = false;
}

void Session::set_notes(Notes notes) {
  for (auto& [key, text] : notes) {
    unsaved_.notes.insert(key);
    if (text.empty()) {
      notes_.erase(key);
    } else {
      notes_[key] = std::move(text);
    }
  }
  save();
}

Result<uint64_t> Session::keep_bytes(std::span<const uint8_t> bytes) {
  const Result<void> journal = ensure_journal();
  if (!journal) return journal.error();
  return journal_->keep(bytes);
}

void Session::drop_bytes(uint64_t off, uint64_t bytes) {
  if (journal_ != nullptr) journal_->drop(off, bytes);
}

Result<std::vector<uint8_t>> Session::kept_bytes(uint64_t off, uint64_t bytes) {
  if (journal_ == nullptr) return fail(EPERM, "the journal cannot be opened");
  return journal_->kept(off, bytes);
}

}  // namespace bpftime::target

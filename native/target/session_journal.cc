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

std::vector<HookState> Session::hook_states(const std::vector<Hook>& hooks) {
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
  for (size_t i = 0; i < arenas_.size(); ++i) {
    if (arenas_[i].get() == site.arena) state.arena = static_cast<uint32_t>(i);
  }
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
  for (const auto& [start, end] : landings_) {
    const bool is_lived = std::any_of(held_.begin(), held_.end(), [&](const auto& held) {
      const uint64_t landing = held.second.patch->landing;
      return landing >= start && landing < end;
    });
    const auto is_same = [start = start](const ArenaState& one) { return one.base == start; };
    const bool is_noted = std::any_of(states.begin(), states.end(), is_same);
    if (!is_lived && !is_noted) states.push_back(range_state(start, end));
  }
  if (gate_ != 0) states.push_back(range_state(gate_, gate_ + ABI_PAGE_BYTES));
  return states;
}

SessionState Session::state(const std::vector<Change>* changes) const {
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
  state.log_id = log_->id;
  state.notes = notes_;
  for (const auto& [id, addr] : map_addrs_) {
    // A map that no program uses any more is memory to be unmapped, nothing else.
    const std::shared_ptr<MapObject> map = find_map(id);
    const auto bytes = map_bytes_.find(id);
    if (map != nullptr) {
      state.maps.push_back(map_state(*map, addr));
    } else if (bytes != map_bytes_.end()) {
      state.ranges.push_back(range_state(addr, addr + bytes->second));
    }
  }
  for (const auto& [id, image] : images_) {
    state.images.push_back({id, image.base, image.bytes, image.clobbers});
  }
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
  state.ranges = range_states(std::move(state.ranges));
  for (const auto& [addr, site] : sites_) state.sites.push_back(site_state(*site));
  if (changes == nullptr) return state;
  for (const Change& change : *changes) {
    ChangeState one;
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
    state.changes.push_back(std::move(one));
  }
  return state;
}

// A journal that cannot be written (no memory) is worth less than the probe that was asked for: the
// old state stays readable, and the next save writes the whole again.
void Session::save(const std::vector<Change>* changes) const {
  if (journal_ == nullptr) return;
  static_cast<void>(journal_->write_state(encode(state(changes))));
}

void Session::set_notes(std::vector<uint8_t> notes) {
  notes_ = std::move(notes);
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

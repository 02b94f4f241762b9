// SPDX-License-Identifier: MIT
// Session, third part: prepared changes become visible, in one stop of all threads if text changes.
#include <time.h>

#include <algorithm>
#include <cstring>

#include "../rewrite/emit.h"
#include "../rewrite/trampoline.h"
#include "session.h"
#include "session_parts.h"
#include "stopped_process.h"

namespace bpftime::target {

namespace {

constexpr int kLandingAttempts = 50;
constexpr long kLandingPauseNs = 10'000'000;
constexpr const char* kWouldStop =
    "the process would have to stand still for this, and its `info` says nostop=on";

}  // namespace

const Region* region_at(const std::vector<Region>& regions, uint64_t addr) {
  for (const Region& region : regions) {
    if (region.start <= addr && addr < region.end) return &region;
  }
  return nullptr;
}

std::vector<uint8_t> jump_bytes(uint64_t from, uint64_t to, uint32_t window) {
  constexpr uint8_t kTrapByte = 0xcc;
  rewrite::CodeBuffer code(from);
  code.jmp(to);
  std::vector<uint8_t> bytes = std::move(code.bytes());
  bytes.resize(window, kTrapByte);
  return bytes;
}

Result<ApplyReport> Session::apply(const std::vector<SiteRequest>& requests,
                                   uint64_t* reason_site) {
  inside_.reset();  // code may lead there again
  Result<ApplyReport> done = try_apply(requests, reason_site);
  // The place where a jump of one byte leads is given: who is on his way through it is waited for.
  for (int attempt = 0; attempt < kLandingAttempts; ++attempt) {
    if (done.ok() || done.error().errnum != EAGAIN) return done;
    const timespec pause{0, kLandingPauseNs};
    nanosleep(&pause, nullptr);
    if (!recycle(true).ok()) break;  // a thread could not be looked at in time
    done = try_apply(requests, reason_site);
  }
  if (done.ok() || done.error().errnum != EAGAIN) return done;
  return fail(EBUSY, done.error().reason);
}

Result<ApplyReport> Session::try_apply(const std::vector<SiteRequest>& requests,
                                       uint64_t* reason_site) {
  *reason_site = 0;
  const Result<void> alive = check_alive();
  if (!alive) return alive.error();
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  std::vector<Change> changes;
  for (const SiteRequest& request : requests) {
    unsaved_.sites.insert(request.addr);
    Result<Change> change = prepare(request);
    if (!change) {
      *reason_site = request.addr;
      forget(&changes, requests);
      save();
      return change.error();
    }
    changes.push_back(std::move(change.value()));
    Change& stored = changes.back();
    // Later requests of the same batch must see this site's bytes as taken.
    if (stored.fresh != nullptr) {
      register_patches(*stored.fresh);
      sites_[request.addr] = std::move(stored.fresh);
    }
  }
  Result<ApplyReport> done = commit(&changes);
  // What commit() saved was the state before.
  for (const SiteRequest& request : requests) unsaved_.sites.insert(request.addr);
  if (!done) {
    forget(&changes, requests);
    save();
    return done;
  }
  taken_.clear();
  // A target that does not stop now has its memory recycled another time.
  const Result<uint64_t> pause_ns = recycle();
  if (pause_ns.ok()) done.value().recycle_pause_ns = pause_ns.value();
  save();
  return done;
}

// Undoes prepare(): nothing of it was visible to the target's threads.
void Session::forget(std::vector<Change>* changes, const std::vector<SiteRequest>& requests) {
  for (Change& change : *changes) {
    if (!change.removes) release_counters(change);
    drop_lanes(change);
  }
  for (const SiteRequest& request : requests) {
    const auto it = sites_.find(request.addr);
    if (it == sites_.end()) continue;
    drop_fresh(it->second.get());
    if (it->second->hooks.empty()) sites_.erase(it);
  }
  for (const Piece& piece : taken_) piece.arena->space.give_back(piece.addr, piece.bytes);
  taken_.clear();
}

// Forgets the patches that were planned for a change that did not happen.
void Session::drop_fresh(Site* site) {
  unregister_patches(*site);
  if (site->entry != nullptr && site->entry->is_fresh) {
    site->entry.reset();
  }
  if (!site->exits.empty() && site->exits.front()->is_fresh) {
    site->exits.clear();
    site->exits_planned = false;
  }
  // An entry that is one of the exits is planned with them.
  if (site->entry != nullptr && site->exits.empty() && !site->exits_settled) {
    site->entry->is_exit = false;
    site->exits_planned = false;
  }
  register_patches(*site);
}

// Counters that build() took for hooks that the site did not have before.
void Session::release_counters(const Change& change) {
  for (const Hook& hook : change.hooks) {
    const auto& old = change.site->hooks;
    const bool kept = std::any_of(old.begin(), old.end(), [&](const Hook& h) {
      return h.request.hook_id == hook.request.hook_id;
    });
    if (!kept) hook.counted_in->give_back_stats(hook.stat);
  }
}

// As long as any return address is replaced an unwinder must come by the site that puts it right.
bool Session::unguards_unwinder(const Change& change) {
  return change.removes && !change.site->hooks.empty() &&
         change.site->hooks.front().request.kind == HookKind::kRestoreReturns;
}

// The same question as in a stop. No return address is replaced any more when this is asked, so
// what is settled stays so.
Result<void> Session::returns_are_settled() {
  std::set<uint32_t> returning;
  uint64_t pause_ns = 0;
  const Result<std::vector<uint64_t>> inside = look_inside(&returning, &pause_ns);
  if (!inside) return inside.error();
  if (inside.value().empty() && returning.empty()) return {};
  return fail(EBUSY, "a probed function has not returned yet");
}

Result<ApplyReport> Session::commit(std::vector<Change>* changes) {
  for (Change& change : *changes) {
    const Result<void> chosen = choose_lanes(&change);
    if (!chosen) return chosen.error();
  }
  // From here on whoever finds the process makes this change.
  save(changes);
  const bool stops = std::any_of(changes->begin(), changes->end(),
                                 [&](const Change& change) { return needs_stop(change); });
  const bool unguards = std::any_of(changes->begin(), changes->end(), unguards_unwinder);
  if (no_stop_ && stops) return fail(EBUSY, kWouldStop);
  if (unguards) {
    const Result<void> free = way_is_free();
    if (!free) return free.error();
  }
  if (!stops && unguards) {
    const Result<void> settled = returns_are_settled();
    if (!settled) return settled.error();
  }
  if (!stops) return switch_bodies(changes);
  auto stopped = stop_for_commit();
  if (!stopped) return stopped.error();
  StoppedProcess& process = *stopped.value();
  for (Change& change : *changes) {
    const Result<void> as_planned = check_bytes(&change, false);
    if (!as_planned) return as_planned.error();
  }
  if (unguards) {
    in_the_way_.clear();
    if (process.anyone_inside(code_ranges(), &in_the_way_) || !live_return_sites().empty()) {
      return fail(EBUSY, "a probed function has not returned yet");
    }
  }
  size_t done = 0;
  Result<void> wrote = write_go_resumes(*changes);
  for (; done < changes->size() && wrote.ok(); ++done) {
    wrote = write_change((*changes)[done], &process, false);
  }
  if (wrote.ok()) wrote = move_interrupted(*changes, process);
  if (!wrote) {
    for (size_t i = 0; i < done; ++i)
      static_cast<void>(write_change((*changes)[i], &process, true));
    static_cast<void>(write_go_resumes({}));
    return wrote.error();
  }
  // Sites of rt_sigaction are diverted for this. If somebody is in the way, it is done later.
  const bool guards = std::any_of(changes->begin(), changes->end(), [](const Change& change) {
    return !change.removes && change.hooks.front().request.kind == HookKind::kSigaction;
  });
  if (guards && !guard_armed_) {
    guard_armed_ = call_agent_within(&process, agent_fn(header_.guard_install)).ok();
  }
  ApplyReport report;
  report.guard_armed = guard_armed_;
  report.thread_count = static_cast<uint32_t>(process.threads().size());
  report.pause_ns = process.release();
  for (Change& change : *changes) {
    // write_slots has seen to them.
    for (Hook& hook : change.hooks) hook.stubbed = !hook.request.enabled;
    settle(&change);
  }
  return report;
}

void Session::set_no_stop(bool on) {
  no_stop_ = on;
  save();
}

// Every byte that the change writes (text: its jumps, too) is looked at before the first is
// written.
Result<void> Session::check_bytes(Change* change, bool is_quiet) {
  for (Change::Step& step : change->steps) {
    const Patch& patch = *step.patch;
    if (!patch.on && step.body == 0) continue;
    const auto& expected = patch.on ? patch.new_bytes : patch.old_bytes;
    std::vector<uint8_t> seen(expected.size());
    const Region* region = region_at(regions_, patch.plan.site);
    const bool mapped = region != nullptr && region->inode == change->site->inode &&
                        get(patch.plan.site, seen.data(), seen.size()).ok();
    // A module that was unloaded took its site along: there is nothing to write back.
    step.vanished = change->removes && (!mapped || seen == patch.old_bytes);
    if (step.vanished) continue;
    if (!mapped) return fail(ESTALE, "the code is no longer mapped");
    // Where only the head changes somebody's jump may lie over ours, and lead to it.
    const bool stays_on = step.body != 0 || (is_quiet && !change->removes);
    if (patch.on && step.head == 0 && stays_on) continue;
    if (seen != expected) return fail(EBUSY, "somebody else changed the code there");
    if (patch.plan.pad == 0) continue;
    const std::vector<uint8_t> jump =
        patch.on ? jump_bytes(patch.plan.pad, patch.head, rewrite::kJumpBytes) : patch.pad_old;
    seen.resize(jump.size());
    if (!get(patch.plan.pad, seen.data(), seen.size()).ok() || seen != jump) {
      return fail(EBUSY, "somebody else changed the padding that its jump needs");
    }
  }
  return {};
}

// Writes one site's bytes with everything stopped; `undo` writes them back.
Result<void> Session::write_change(const Change& change, StoppedProcess* process, bool undo) {
  const Result<void> slots = write_slots(change, undo);
  if (!slots) return slots;
  for (const Change::Step& step : change.steps) {
    const Patch& patch = *step.patch;
    const bool was_on = undo ? step.body != 0 : patch.on;
    const bool becomes_on = undo ? patch.on : step.body != 0;
    const bool new_head = step.head != 0;
    if (was_on && becomes_on && !new_head) {
      const Result<void> aimed = undo ? aim(patch, patch.head, patch.lane, patch.body)
                                      : aim(patch, patch.head, step.lane, step.body);
      if (!aimed) return aimed;
    }
    if ((was_on == becomes_on && !new_head) || step.vanished) continue;
    const Result<void> relayed =
        write_relay(patch, new_head && !undo ? step.head : patch.head, becomes_on);
    if (!relayed) return relayed;
    const auto& jump = new_head && !undo ? step.new_bytes : patch.new_bytes;
    const auto& bytes = becomes_on ? jump : patch.old_bytes;
    const Result<void> wrote = put(patch.plan.site, bytes.data(), bytes.size());
    if (!wrote) return wrote;
    if (was_on != becomes_on) move_threads(patch, becomes_on, process);
  }
  return {};
}

// Programs that are not wanted any more may still be called by threads on their way through an old
// body: their slots lead to a stub. Undone, what ran before runs again.
Result<void> Session::write_slots(const Change& change, bool undo) {
  const uint64_t stub = agent_fn(header_.ret_stub);
  for (const auto* hooks : {&change.dropped, &change.hooks}) {
    for (const Hook& hook : *hooks) {
      const bool is_dropped = hooks == &change.dropped;
      // A call that is between two programs must not miss both.
      if (is_dropped && change.request.lets_finish) continue;
      if (!is_dropped && hook.request.enabled) continue;
      const Result<void> wrote = put(hook.slot, undo ? &hook.entry : &stub, sizeof stub);
      if (!wrote) return wrote;
    }
  }
  return {};
}

// A thread whose next instruction is about to change goes on at the same instruction elsewhere.
void Session::move_threads(const Patch& patch, bool to_copy, StoppedProcess* process) {
  for (StoppedProcess::Thread& thread : process->threads()) {
    for (const rewrite::PcPair& pair : patch.pc_map) {
      const uint64_t original = patch.plan.site + pair.old_off;
      const uint64_t copied = patch.copy + pair.new_off;
      if (to_copy && pair.old_off != 0 && thread.regs.rip == original) {
        thread.regs.rip = copied;
        thread.dirty = true;
        break;
      }
      if (!to_copy && thread.regs.rip == copied) {
        thread.regs.rip = original;
        thread.dirty = true;
        break;
      }
    }
  }
}

// The same for threads that a signal handler interrupted inside a new window: the handler's return
// would lead into the middle of the jump. The address to return to lies in the signal's frame.
Result<void> Session::move_interrupted(const std::vector<Change>& changes,
                                       const StoppedProcess& process) const {
  std::vector<const Patch*> fresh;
  std::vector<std::pair<uint64_t, uint64_t>> windows;
  for (const Change& change : changes) {
    for (const Change::Step& step : change.steps) {
      const Patch& patch = *step.patch;
      if (patch.on || step.body == 0 || patch.pc_map.size() <= 1) continue;
      fresh.push_back(&patch);
      windows.emplace_back(patch.plan.site + 1, patch.plan.site + patch.plan.window);
    }
  }
  if (windows.empty()) return {};
  for (const auto& [slot, pc] : process.interrupted_at(windows)) {
    for (const Patch* patch : fresh) {
      for (const rewrite::PcPair& pair : patch->pc_map) {
        if (pair.old_off == 0 || pc != patch->plan.site + pair.old_off) continue;
        const uint64_t copied = patch->copy + pair.new_off;
        const Result<void> wrote = put(slot, &copied, sizeof copied);
        if (!wrote) return wrote;
      }
    }
  }
  return {};
}

void Session::settle(Change* change) {
  Site* site = change->site;
  for (const Hook& hook : change->dropped) {
    retire_hook(*site, hook);
    if (hook.request.kind == HookKind::kProgram) --images_.at(hook.request.prog_id).users;
  }
  for (const uint64_t slot : change->left_slots) retire(*site, slot, sizeof slot);
  std::vector<uint64_t> left_slots = std::move(change->left_slots);
  for (const Hook& hook : change->dropped) left_slots.push_back(hook.slot);
  for (Change::Step& step : change->steps) settle_lanes(*site, left_slots, &step);
  site->exits_settled = site->exits_planned;
  if (change->removes) {
    for (const Patch* patch : site->patches()) retire_patch(*site, *patch);
    unregister_patches(*site);
    sites_.erase(change->request.addr);
    return;
  }
  for (const Hook& hook : change->hooks) {
    const bool before = std::any_of(site->hooks.begin(), site->hooks.end(), [&](const Hook& h) {
      return h.request.hook_id == hook.request.hook_id;
    });
    if (!before && hook.request.kind == HookKind::kProgram) {
      ++images_.at(hook.request.prog_id).users;
    }
  }
  site->hooks = change->hooks;
  site->request = change->request;
}

std::vector<HookCounters> Session::counters() const {
  std::vector<HookCounters> out;
  for (const auto& [addr, site] : sites_) {
    for (const Hook& hook : site->hooks) {
      HookCounters sum;
      sum.hook_id = hook.request.hook_id;
      sum.tier = tier_of(hook.request);
      const Arena& arena = *hook.counted_in;
      const size_t cpus = arena.stats_view != nullptr ? arena.stats_bytes >> kStatsCpuShift : 0;
      for (size_t cpu = 0; cpu < cpus; ++cpu) {
        hook_stats one{};
        memcpy(&one, arena.stats_view + (cpu << kStatsCpuShift) + hook.stat * sizeof(hook_stats),
               sizeof one);
        sum.hits += one.hits;
        sum.missed += one.missed;
        sum.samples += one.samples;
        sum.sampled_ticks += one.sampled_ticks;
      }
      out.push_back(sum);
    }
  }
  return out;
}

const char* Session::form_name(const Patch& patch) {
  switch (patch.plan.form) {
    case rewrite::SiteForm::kShort:
      return "short";
    case rewrite::SiteForm::kPunned:
      return "punned";
    case rewrite::SiteForm::kOneByte:
      return "onebyte";
    default:
      return "jmp";
  }
}

std::vector<PatchInfo> Session::patch_infos() const {
  std::vector<PatchInfo> out;
  for (const auto& [addr, site] : sites_) {
    for (const Patch* patch : site->patches()) {
      PatchInfo info;
      info.addr = site->request.addr;
      info.site = patch->plan.site;
      info.head = patch->head;
      info.copy = patch->copy;
      info.body = patch->body;
      info.body_bytes = patch->body_bytes;
      info.is_exit = patch->is_exit;
      info.on = patch->on;
      info.old_bytes = patch->old_bytes;
      info.new_bytes = patch->new_bytes;
      info.copy_bytes = patch->copy_bytes;
      info.form = form_name(*patch);
      out.push_back(std::move(info));
    }
  }
  return out;
}

}  // namespace bpftime::target

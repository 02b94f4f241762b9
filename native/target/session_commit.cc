// SPDX-License-Identifier: MIT
// Session, third part: prepared changes become visible, in one stop of all threads.
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

uint64_t now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(ts.tv_nsec);
}

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
  *reason_site = 0;
  const Result<void> alive = check_alive();
  if (!alive) return alive.error();
  Result<std::vector<Region>> regions = read_regions(any_thread());
  if (!regions) return regions.error();
  regions_ = std::move(regions.value());
  std::vector<Change> changes;
  for (const SiteRequest& request : requests) {
    Result<Change> change = prepare(request);
    if (!change) {
      *reason_site = request.addr;
      forget(&changes);
      return change.error();
    }
    changes.push_back(std::move(change.value()));
    Change& stored = changes.back();
    // Later requests of the same batch must see this site's bytes as taken.
    if (stored.fresh != nullptr) sites_[request.addr] = std::move(stored.fresh);
  }
  const Result<ApplyReport> done = commit(&changes);
  if (!done) forget(&changes);
  return done;
}

// Undoes prepare(): nothing of it was visible to the target's threads.
void Session::forget(std::vector<Change>* changes) {
  for (Change& change : *changes) {
    if (change.removes || change.site == nullptr) continue;
    release_counters(change);
    if (change.site->hooks.empty()) sites_.erase(change.request.addr);
  }
}

// Counters that build() took for hooks that the site did not have before.
void Session::release_counters(const Change& change) {
  for (const Hook& hook : change.hooks) {
    const auto& old = change.site->hooks;
    const bool kept = std::any_of(old.begin(), old.end(), [&](const Hook& h) {
      return h.request.hook_id == hook.request.hook_id;
    });
    if (!kept) change.site->arena->stats_used[hook.stat] = false;
  }
}

Result<ApplyReport> Session::commit(std::vector<Change>* changes) {
  const uint64_t stopped_at = now_ns();
  auto stopped = StoppedProcess::stop(pid_);
  if (!stopped) return stopped.error();
  StoppedProcess& process = *stopped.value();
  process.know_regions(regions_);
  // Look at every byte before the first is changed.
  for (Change& change : *changes) {
    const Site& site = *change.site;
    const bool fresh = site.hooks.empty();
    const auto& expected = fresh ? site.old_bytes : site.new_bytes;
    std::vector<uint8_t> seen(expected.size());
    const Region* region = region_at(regions_, site.plan.site);
    const bool mapped = region != nullptr && region->inode == site.inode &&
                        get(site.plan.site, seen.data(), seen.size()).ok();
    // A module that was unloaded took its site along: there is nothing to write back.
    change.vanished = change.removes && (!mapped || seen == site.old_bytes);
    if (change.vanished) continue;
    if (!mapped) return fail(ESTALE, "the code is no longer mapped");
    if (seen != expected) return fail(EBUSY, "somebody else changed the code there");
  }
  // As long as any return address is replaced an unwinder must come by the site that puts it right.
  const bool unguards = std::any_of(changes->begin(), changes->end(), [](const Change& change) {
    return change.removes && !change.site->hooks.empty() &&
           change.site->hooks.front().request.kind == HookKind::kRestoreReturns;
  });
  if (unguards && (process.anyone_inside(code_ranges()) || any_live_return())) {
    return fail(EBUSY, "a probed function has not returned yet");
  }
  size_t done = 0;
  Result<void> wrote;
  for (; done < changes->size() && wrote.ok(); ++done) {
    wrote = write_change((*changes)[done], &process, false);
  }
  if (!wrote) {
    for (size_t i = 0; i < done; ++i)
      static_cast<void>(write_change((*changes)[i], &process, true));
    return wrote.error();
  }
  ApplyReport report;
  report.thread_count = static_cast<uint32_t>(process.threads().size());
  stopped.value().reset();
  report.pause_ns = now_ns() - stopped_at;
  for (Change& change : *changes) settle(&change);
  return report;
}

// Writes one site's bytes with everything stopped; `undo` writes them back.
Result<void> Session::write_change(const Change& change, StoppedProcess* process, bool undo) {
  Site& site = *change.site;
  const bool fresh = site.hooks.empty();
  const bool takes_out = change.removes != undo;
  const uint64_t stub = agent_fn(header_.ret_stub);
  if (!change.removes) {
    const uint64_t target = undo ? (site.body != 0 ? site.body : site.copy)
                                 : (change.body != 0 ? change.body : site.copy);
    const std::vector<uint8_t> head = jump_bytes(site.head, target, rewrite::kHeadBytes);
    const Result<void> wrote = put(site.head, head.data(), head.size());
    if (!wrote) return wrote;
  }
  for (const auto* hooks : {&change.dropped, &change.hooks}) {
    for (const Hook& hook : *hooks) {
      const bool is_dropped = hooks == &change.dropped;
      if (!is_dropped && hook.request.enabled) continue;
      // Undone: programs that ran before run again.
      const Result<void> wrote = put(hook.slot, undo ? &hook.entry : &stub, sizeof stub);
      if (!wrote) return wrote;
    }
  }
  if (!fresh && !change.removes) return {};
  if (change.vanished) return {};
  const auto& bytes = takes_out ? site.old_bytes : site.new_bytes;
  const Result<void> wrote = put(site.plan.site, bytes.data(), bytes.size());
  if (!wrote) return wrote;
  move_threads(site, !takes_out, process);
  if (takes_out) return {};
  return move_interrupted(site, *process);
}

// A thread whose next instruction is about to change goes on at the same instruction elsewhere.
void Session::move_threads(const Site& site, bool to_copy, StoppedProcess* process) {
  for (StoppedProcess::Thread& thread : process->threads()) {
    for (const rewrite::PcPair& pair : site.pc_map) {
      const uint64_t original = site.plan.site + pair.old_off;
      const uint64_t copied = site.copy + pair.new_off;
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

// The same for threads that a signal handler interrupted inside the window: the handler's return
// would lead into the middle of the jump. The address to return to lies in the signal's frame.
Result<void> Session::move_interrupted(const Site& site, const StoppedProcess& process) const {
  if (site.pc_map.size() <= 1) return {};
  for (const auto& [at, pc] :
       process.interrupted_at(site.plan.site + 1, site.plan.site + site.plan.window)) {
    for (const rewrite::PcPair& pair : site.pc_map) {
      if (pc != site.plan.site + pair.old_off) continue;
      const uint64_t copied = site.copy + pair.new_off;
      const Result<void> wrote = put(at, &copied, sizeof copied);
      if (!wrote) return wrote;
    }
  }
  return {};
}

void Session::settle(Change* change) {
  Site* site = change->site;
  for (const Hook& hook : change->dropped) {
    site->arena->stats_used[hook.stat] = false;
    if (hook.request.kind == HookKind::kProgram) --images_.at(hook.request.prog_id).users;
  }
  if (change->removes) {
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
  site->body = change->body;
  site->body_bytes = change->body_bytes;
}

std::vector<HookCounters> Session::counters() const {
  std::vector<HookCounters> out;
  for (const auto& [addr, site] : sites_) {
    for (const Hook& hook : site->hooks) {
      HookCounters sum;
      sum.hook_id = hook.request.hook_id;
      for (size_t cpu = 0; cpu < site->arena->stats_bytes >> kStatsCpuShift; ++cpu) {
        hook_stats one{};
        memcpy(&one,
               site->arena->stats_view + (cpu << kStatsCpuShift) + hook.stat * sizeof(hook_stats),
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

std::vector<SiteInfo> Session::site_infos() const {
  std::vector<SiteInfo> out;
  for (const auto& [addr, site] : sites_) {
    SiteInfo info;
    info.addr = addr;
    info.site = site->plan.site;
    info.head = site->head;
    info.copy = site->copy;
    info.body = site->body;
    info.body_bytes = site->body_bytes;
    info.old_bytes = site->old_bytes;
    info.new_bytes = site->new_bytes;
    info.copy_bytes = site->copy_bytes;
    info.form = "jmp";
    out.push_back(std::move(info));
  }
  return out;
}

}  // namespace bpftime::target

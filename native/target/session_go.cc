// SPDX-License-Identifier: MIT
// Session, what Go code needs besides: agent stacks for programs, and a way for goroutines that
// were preempted inside a window to find its copy. docs/adr/0010-go.md.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>

#include "../rewrite/go_prologue.h"
#include "../rewrite/trampoline.h"
#include "session.h"
#include "session_parts.h"
#include "stopped_process.h"

namespace bpftime::target {

namespace {

constexpr int kResumeAttempts = 200;
constexpr long kResumePauseNs = 50'000;

}  // namespace

Result<void> Session::ensure_go(const SiteRequest& request) {
  if (go_pool_ != 0) return {};
  Result<Function> morestack = decode(request.go_morestack, request.go_morestack_size);
  if (!morestack) return morestack.error();
  const Result<int32_t> offset = rewrite::go_tls_offset(
      morestack->view,
      [this](uint64_t at, void* out, size_t size) { return get(at, out, size).ok(); });
  if (!offset) return offset.error();
  constexpr uint64_t kPoolBytes = uint64_t{rewrite::kGoStackCount} << rewrite::kGoStackShift;
  constexpr uint64_t kTableBytes = 2 * sizeof(go_move) * GO_MOVES_MAX;
  std::vector<MapWant> wants;
  wants.push_back(MapWant::anon(kPoolBytes, PROT_READ | PROT_WRITE, MAP_NORESERVE));
  wants.push_back(MapWant::anon(kTableBytes, PROT_READ, MAP_NORESERVE));
  const Result<void> mapped = map_all(&wants);
  if (!mapped) return mapped;
  // leave() takes them out together with what failed steps left.
  for (const MapWant& want : wants) {
    orphans_.emplace_back(want.addr, want.addr + want.request.bytes);
  }
  go_offset_ = offset.value();
  go_resumes_ = wants[1].addr;
  go_pool_ = wants[0].addr + (1u << rewrite::kGoStackShift) - rewrite::kGoStackTop;
  const uint64_t faults = go_resumes_ + sizeof(go_move) * GO_MOVES_MAX;
  const uint64_t state = agent_ + header_.state_off;
  const Result<void> told =
      put(state + offsetof(agent_state, go_resumes), &go_resumes_, sizeof go_resumes_);
  if (!told) return told;
  return put(state + offsetof(agent_state, go_faults), &faults, sizeof faults);
}

Result<void> Session::put_go_moves(std::vector<go_move>* moves, uint64_t table,
                                   uint64_t count_off) const {
  if (moves->size() > GO_MOVES_MAX) return fail(ENOSPC, "too many places of Go code are diverted");
  std::sort(moves->begin(), moves->end(),
            [](const go_move& a, const go_move& b) { return a.pc < b.pc; });
  const uint64_t count = moves->size();
  if (count != 0) {
    const Result<void> wrote = put(table, moves->data(), count * sizeof(go_move));
    if (!wrote) return wrote;
  }
  return put(agent_ + header_.state_off + count_off, &count, sizeof count);
}

rewrite::GoStack Session::go_stack(const Arena& arena, bool has_room) const {
  rewrite::GoStack go;
  go.pool_slot = arena.base + kGoPoolSlot;
  go.g_offset = go_offset_;
  go.has_rdpid = has_rdpid();
  go.has_room = has_room;
  return go;
}

// Every instruction boundary inside of a window that is on after these changes. A stack check has
// none that a goroutine could be preempted at.
Result<void> Session::write_go_resumes(const std::vector<Change>& changes) const {
  if (go_pool_ == 0) return {};
  std::map<const Patch*, bool> changed;
  for (const Change& change : changes) {
    for (const ChangeStep& step : change.steps) changed[step.patch] = step.body != 0;
  }
  std::vector<go_move> resumes, faults;
  for (const auto& [site, held] : held_) {
    const Patch* patch = held.patch;
    if (!patch->is_go || patch->plan.behind_check) continue;
    const auto it = changed.find(patch);
    if (!(it != changed.end() ? it->second : patch->on)) continue;
    for (const rewrite::PcPair& pair : patch->pc_map) {
      if (pair.old_off >= patch->plan.window) continue;
      const uint64_t original = site + pair.old_off, copy = patch->copy + pair.new_off;
      if (pair.old_off != 0) resumes.push_back({original, copy});
      if (patch->may_fault) faults.push_back({copy, original});
    }
  }
  const Result<void> wrote =
      put_go_moves(&resumes, go_resumes_, offsetof(agent_state, go_resume_count));
  if (!wrote) return wrote;
  return put_go_moves(&faults, go_resumes_ + sizeof(go_move) * GO_MOVES_MAX,
                      offsetof(agent_state, go_fault_count));
}

// True while a thread perhaps looks an address up, or is past the place where it would: between the
// end of runtime.asyncPreempt and its return.
bool Session::is_go_resuming(StoppedProcess* process) const {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [addr, site] : sites_) {
    const auto& hooks = site->request.hooks;
    if (hooks.empty() || hooks.front().kind != HookKind::kGoResume) continue;
    ranges.emplace_back(agent_, agent_ + header_.data_off);
    for (const Patch* patch : site->patches()) {
      ranges.emplace_back(patch->plan.site, patch->plan.site + patch->plan.window);
      ranges.emplace_back(patch->head - rewrite::kBeforeHead, patch->head + rewrite::kGateBytes);
      ranges.emplace_back(patch->copy, patch->copy + patch->copy_bytes.size());
      ranges.emplace_back(patch->body, patch->body + patch->body_bytes);
    }
  }
  if (ranges.empty()) return false;
  const auto inside = [&](uint64_t pc) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [pc](const auto& range) { return pc >= range.first && pc < range.second; });
  };
  for (const StoppedProcess::Thread& thread : process->threads()) {
    if (inside(thread.regs.rip)) return true;
  }
  return !process->interrupted_at(ranges).empty();
}

// Stops all threads at a moment when the table of displaced instructions may change.
Result<std::unique_ptr<StoppedProcess>> Session::stop_for_commit() const {
  for (int attempt = 0;; ++attempt) {
    auto stopped = StoppedProcess::stop(pid_);
    if (!stopped) return stopped;
    StoppedProcess* process = stopped.value().get();
    tell(process);
    if (go_pool_ == 0) return stopped;
    if (!is_go_resuming(process)) return stopped;
    if (attempt == kResumeAttempts) return fail(EBUSY, "goroutines are preempted all the time");
    stopped.value()->release();
    const timespec pause{0, kResumePauseNs};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace bpftime::target

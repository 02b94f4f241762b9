// SPDX-License-Identifier: MIT
// Session, recycling: code memory and program images that nothing leads to any more are used again
// once no thread can be inside them. A process can be probed ten thousand times in bounded memory.
//
// What a site left behind is freed as a whole or not at all: a thread in an old body calls through
// old slots into old images. Coroutines that are suspended inside our code by a signal handler
// which switches stacks are on no thread's stack and would be missed; see docs/known-limits.md.
#include <algorithm>
#include <utility>

#include "session.h"
#include "session_parts.h"
#include "stopped_process.h"

namespace bpftime::target {

namespace {

constexpr size_t kIdleImagesMax = 32;

bool any_within(const std::vector<uint64_t>& pointers, uint64_t addr, uint64_t bytes) {
  return std::any_of(pointers.begin(), pointers.end(),
                     [&](uint64_t pointer) { return pointer >= addr && pointer < addr + bytes; });
}

}  // namespace

void Session::retire(const Site& site, uint64_t addr, uint64_t bytes) {
  retired_[site.id].pieces.push_back({site.arena, addr, bytes});
  retired_bytes_ += bytes;
}

void Session::retire_hook(const Site& site, const Hook& hook) {
  retire(site, hook.slot, sizeof(uint64_t));
  Retired& retired = retired_[site.id];
  retired.stats.emplace_back(hook.counted_in, hook.stat);
  if (hook.request.kind == HookKind::kProgram) retired.programs.insert(hook.request.prog_id);
}

void Session::retire_patch(const Site& site, const Patch& patch) {
  retire_head(site, patch);
  if (patch.copy != 0) retire(site, patch.copy, patch.copy_bytes.size());
  if (patch.landing != 0) {
    const uint64_t page = patch.landing & ~uint64_t{ABI_PAGE_BYTES - 1};
    retired_[site.id].landings.emplace_back(page, page + patch.landing_bytes);
    retired_[site.id].landing_addrs.push_back(patch.landing);
  }
}

// A head with every body that it can lead to.
void Session::retire_head(const Site& site, const Patch& patch) {
  if (patch.head == 0) return;
  retire(site, patch.head - rewrite::kBeforeHead, rewrite::kBeforeHead + kGranule);
  for (size_t i = 1; i < patch.lanes.size(); ++i) {
    if (patch.lanes[i].body != 0) retire_body(site, patch.head, patch.lanes[i]);
  }
}

// The first bytes of a body behind its head share a granule with the head, and go with it.
void Session::retire_body(const Site& site, uint64_t head, const Lane& lane) {
  constexpr uint64_t kShared = kGranule - rewrite::kGateBytes;
  if (lane.body != head + rewrite::kGateBytes) return retire(site, lane.body, lane.body_bytes);
  retired_[site.id].ways.push_back({site.arena, lane.body, kShared});
  retire(site, lane.body + kShared, lane.body_bytes - kShared);
}

void Session::tell(StoppedProcess* process) const {
  process->know(regions_, main_stack_);
  if (go_pool_ != 0) process->expect_go_stacks(go_offset_, kGoStackScanBytes);
}

/// Where threads execute in our code or may come back to it, and the sites to which functions will
/// return. `pause_ns`: how long threads stood still, with no_stop the longest of any one.
Result<std::vector<uint64_t>> Session::look_inside(std::set<uint32_t>* returning,
                                                   uint64_t* pause_ns) {
  if (no_stop_) {
    // First: who returns from now on is inside when it is looked at, or was looked for here.
    *returning = live_return_sites();
    Result<StoppedProcess::Visit> visit = StoppedProcess::visit(
        pid_, {}, code_ranges(), [this](StoppedProcess* process) { tell(process); });
    if (!visit) return visit.error();
    *pause_ns = visit.value().longest_ns;
    return std::move(visit.value().pointers);
  }
  auto stopped = StoppedProcess::stop(pid_);
  if (!stopped) return stopped.error();
  tell(stopped.value().get());
  in_the_way_.clear();
  std::vector<uint64_t> pointers = stopped.value()->code_pointers(code_ranges(), &in_the_way_);
  // While everybody waits: one that returned a moment ago would be inside.
  *returning = live_return_sites();
  *pause_ns = stopped.value()->release();
  return pointers;
}

/// Whether anybody is inside of what no code leads to any more, or will return there. Threads are
/// looked at one by one, and again only those that were inside, once they have run: EALREADY while
/// none has.
Result<void> Session::is_left() {
  if (!live_return_sites().empty()) {
    // Who returns from now on is inside for a while: all are looked at then.
    inside_.reset();
    return fail(EALREADY, "a probed function has not returned yet");
  }
  std::vector<pid_t> only;
  if (inside_) {
    if (inside_->empty()) return {};
    only = inside_->moved();
    if (only.empty()) return fail(EALREADY, "a thread sleeps inside probed code");
    inside_->forget(only);
  }
  // What a look that fails has not seen is looked at again, with all.
  std::optional<Standstill> rest = std::exchange(inside_, std::nullopt);
  Result<StoppedProcess::Visit> visit = StoppedProcess::visit(
      pid_, only, code_ranges(), [this](StoppedProcess* process) { tell(process); });
  if (!visit) return visit.error();
  inside_ = std::move(rest);
  if (!inside_) inside_.emplace();
  inside_->add(visit.value().who);
  if (inside_->empty()) return {};
  return fail(EBUSY, "a thread is still inside probed code");
}

/// EALREADY while none of those has run that were in the way when everybody stood still.
Result<void> Session::way_is_free() {
  if (!live_return_sites().empty()) return fail(EALREADY, "a probed function has not returned yet");
  if (in_the_way_.empty() || !in_the_way_.moved().empty()) return {};
  return fail(EALREADY, "a thread sleeps inside our code");
}

/// Frees what it can when enough has come together. Nanoseconds that all threads stood still.
Result<uint64_t> Session::recycle(bool now) {
  const size_t idle = images_.size() - images_in_use().size();
  // Images of a former daemon have no programs yet.
  if (!can_keep_ || !adopted_.empty()) return uint64_t{0};
  // The place where a punned jump leads has few alternatives: it is wanted back at once.
  // Jumps of one byte have none, and who wants theirs asks for it (EAGAIN of shares_landing).
  const bool landing =
      !no_stop_ && std::any_of(retired_.begin(), retired_.end(), [](const auto& retired) {
        return !retired.second.landings.empty();
      });
  const bool is_due = now || landing || idle >= kIdleImagesMax;
  if (!is_due && retired_bytes_ < recycle_at_bytes_) return uint64_t{0};
  std::vector<std::pair<uint64_t, uint64_t>> unmapped;
  uint64_t pause_ns = 0;
  std::set<uint32_t> returning;
  const Result<std::vector<uint64_t>> pointers = look_inside(&returning, &pause_ns);
  if (!pointers) return pointers.error();
  free_retired(pointers.value(), returning, &unmapped);
  take_idle_images(pointers.value(), &unmapped);
  // A thread that sleeps in an old body keeps it: do not ask at each change from now on.
  recycle_at_bytes_ = retired_bytes_ + kRecycleBytes;
  if (unmapped.empty()) return pause_ns;
  // What will not be there any more must not be looked for.
  save();
  const Result<void> done = unmap(unmapped);
  if (!done) orphans_.insert(orphans_.end(), unmapped.begin(), unmapped.end());
  return pause_ns;
}

void Session::free_retired(const std::vector<uint64_t>& pointers,
                           const std::set<uint32_t>& returning,
                           std::vector<std::pair<uint64_t, uint64_t>>* unmapped) {
  for (auto it = retired_.begin(); it != retired_.end();) {
    const Retired& retired = it->second;
    const auto is_used = [&](const Piece& piece) {
      return any_within(pointers, piece.addr, piece.bytes);
    };
    const bool in_use = returning.contains(it->first) ||
                        std::any_of(retired.pieces.begin(), retired.pieces.end(), is_used) ||
                        std::any_of(retired.ways.begin(), retired.ways.end(), is_used);
    if (in_use) {
      ++it;
      continue;
    }
    for (const Piece& piece : retired.pieces) {
      piece.arena->space.give_back(piece.addr, piece.bytes);
      retired_bytes_ -= piece.bytes;
    }
    for (const auto& [arena, index] : retired.stats) arena->give_back_stats(index);
    for (const auto& range : retired.landings) free_landing(range, unmapped);
    it = retired_.erase(it);
  }
}

// Places where jumps of one byte land may share a page: it goes with the last of them.
void Session::free_landing(const std::pair<uint64_t, uint64_t>& range,
                           std::vector<std::pair<uint64_t, uint64_t>>* unmapped) {
  const auto one = std::find(landings_.begin(), landings_.end(), range);
  if (one != landings_.end()) landings_.erase(one);
  for (uint64_t page = range.first; page < range.second; page += ABI_PAGE_BYTES) {
    const bool is_shared = std::any_of(landings_.begin(), landings_.end(), [&](const auto& other) {
      return other.first <= page && page < other.second;
    });
    if (!is_shared) unmapped->emplace_back(page, page + ABI_PAGE_BYTES);
  }
}

/// Those that hooks call, and what these go on with.
std::set<uint32_t> Session::images_in_use() const {
  std::set<uint32_t> used;
  for (const auto& [id, image] : images_) {
    if (image.users == 0) continue;
    used.insert(id);
    for (const uint32_t next : image.reach) {
      if (images_.contains(next)) used.insert(next);
    }
  }
  return used;
}

/// Forgets the images that nobody calls, and the maps that only they use.
void Session::take_idle_images(const std::vector<uint64_t>& pointers,
                               std::vector<std::pair<uint64_t, uint64_t>>* unmapped) {
  const size_t before = unmapped->size();
  // Whoever is inside of one may go on to what that reaches.
  std::set<uint32_t> kept = images_in_use();
  for (const auto& one : images_) {
    const auto& [id, image] = one;
    const bool called = std::any_of(
        retired_.begin(), retired_.end(),
        [key = id](const auto& retired) { return retired.second.programs.contains(key); });
    if (!called && !any_within(pointers, image.base, image.bytes)) continue;
    kept.insert(id);
    kept.insert(image.reach.begin(), image.reach.end());
  }
  for (auto it = images_.begin(); it != images_.end();) {
    const auto& [id, image] = *it;
    if (kept.contains(id)) {
      ++it;
      continue;
    }
    unmapped->emplace_back(image.base, image.base + image.bytes);
    unsaved_.images.insert(id);
    it = images_.erase(it);
  }
  if (unmapped->size() == before) return;
  std::set<uint32_t> used{log_->id};
  for (const auto& [id, image] : images_) {
    for (const auto& map : image.program->maps) used.insert(map->id);
  }
  for (auto it = map_addrs_.begin(); it != map_addrs_.end();) {
    const auto [id, addr] = *it;
    if (used.contains(id)) {
      ++it;
      continue;
    }
    unmapped->emplace_back(addr, addr + map_bytes_[id]);
    unsaved_.maps[addr] = id;
    map_bytes_.erase(id);
    it = map_addrs_.erase(it);
  }
}

Result<void> Session::unmap(const std::vector<std::pair<uint64_t, uint64_t>>& ranges) {
  std::vector<MapWant> wants;
  wants.reserve(ranges.size());
  for (const auto& [start, end] : ranges) wants.push_back(MapWant::unmap(start, end - start));
  return map_all(&wants);
}

}  // namespace bpftime::target

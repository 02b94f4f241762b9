// SPDX-License-Identifier: MIT
// One list of fields per struct serves both directions; a new field is one more word in its list.
#include "session_state.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "../rewrite/emit.h"
#include "../rewrite/site_plan.h"
#include "../rewrite/trampoline.h"

namespace bpftime::target {

namespace {

constexpr uint64_t kUserEnd = uint64_t{1} << 47;
constexpr uint64_t kRangeBytesMax = uint64_t{1} << 33;
constexpr uint32_t kNameBytesMax = 256;
constexpr uint64_t kPageMask = 4095;

class Writer {
 public:
  template <typename... Ts>
  void operator()(const Ts&... values) {
    (put(values), ...);
  }
  std::vector<uint8_t> bytes;

 private:
  void raw(const void* data, size_t size) {
    const auto* from = static_cast<const uint8_t*>(data);
    bytes.insert(bytes.end(), from, from + size);
  }
  template <typename T>
  void put(const T& value) {
    if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, agent_header>) {
      raw(&value, sizeof value);
    } else {
      fields(*this, const_cast<T&>(value));
    }
  }
  void put(const std::string& text) {
    put(static_cast<uint64_t>(text.size()));
    raw(text.data(), text.size());
  }
  void put(const std::vector<uint8_t>& data) {
    put(static_cast<uint64_t>(data.size()));
    raw(data.data(), data.size());
  }
  template <typename T>
  void put(const std::vector<T>& list) {
    put(static_cast<uint64_t>(list.size()));
    for (const T& one : list) put(one);
  }
};

class Reader {
 public:
  explicit Reader(std::span<const uint8_t> bytes) : left_(bytes) {}
  template <typename... Ts>
  void operator()(Ts&... values) {
    (get(values), ...);
  }
  [[nodiscard]] bool done() const { return ok_ && left_.empty(); }

 private:
  bool raw(void* out, size_t size) {
    if (!ok_ || size > left_.size()) {
      ok_ = false;
      return false;
    }
    memcpy(out, left_.data(), size);
    left_ = left_.subspan(size);
    return true;
  }
  // A count is never more than the bytes that are left: nothing is allocated for a lie.
  size_t count() {
    uint64_t size = 0;
    if (!raw(&size, sizeof size) || size > left_.size()) {
      ok_ = false;
      return 0;
    }
    return size;
  }
  template <typename T>
  void get(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      uint8_t byte = 0;
      raw(&byte, 1);
      if (byte > 1) ok_ = false;
      value = byte == 1;
    } else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, agent_header>) {
      raw(&value, sizeof value);
    } else {
      fields(*this, value);
    }
  }
  void get(std::string& text) {
    text.resize(count());
    raw(text.data(), text.size());
  }
  void get(std::vector<uint8_t>& data) {
    data.resize(count());
    raw(data.data(), data.size());
  }
  template <typename T>
  void get(std::vector<T>& list) {
    const size_t size = count();
    for (size_t i = 0; i < size && ok_; ++i) get(list.emplace_back());
  }

  std::span<const uint8_t> left_;
  bool ok_ = true;
};

template <typename A>
void fields(A& a, MapState& m) {
  a(m.id, m.addr, m.bytes, m.type, m.key_size, m.value_size, m.max_entries, m.flags, m.name);
}
template <typename A>
void fields(A& a, ImageState& i) {
  a(i.prog_id, i.base, i.bytes, i.clobbers);
}
template <typename A>
void fields(A& a, ArenaState& r) {
  a(r.base, r.bytes, r.used, r.stats, r.stats_bytes, r.stats_used);
}
template <typename A>
void fields(A& a, LaneState& l) {
  a(l.body, l.body_bytes, l.calls);
}
template <typename A>
void fields(A& a, HookState& h) {
  a(h.hook_id, h.prog_id, h.kind, h.on_return, h.enabled, h.stubbed, h.cookie, h.slot, h.entry,
    h.counted_in, h.stat, h.unwound_before);
}
template <typename A>
void fields(A& a, PatchState& p) {
  a(p.site, p.window, p.count, p.keeps, p.at_entry, p.falls_through, p.loops_to_site,
    p.behind_check, p.is_go, p.has_room, p.may_fault, p.is_exit, p.is_entry, p.on, p.form, p.pad,
    p.landing, p.landing_bytes, p.old_bytes, p.pad_old, p.head, p.copy, p.body, p.body_bytes,
    p.lane, p.lanes);
}
template <typename A>
void fields(A& a, SiteState& s) {
  a(s.id, s.addr, s.function, s.function_size, s.exit_form, s.go_morestack, s.go_morestack_size,
    s.arena, s.inode, s.exits_planned, s.patches, s.hooks);
}
template <typename A>
void fields(A& a, StepState& s) {
  a(s.body, s.body_bytes, s.calls, s.head, s.lanes);
}
template <typename A>
void fields(A& a, ChangeState& c) {
  a(c.addr, c.exit_form, c.removes, c.lets_finish, c.hooks, c.dropped, c.left_slots, c.steps);
}
template <typename A>
void fields(A& a, SessionState& s) {
  a(s.pid, s.start_time, s.enter_ns, s.agent, s.agent_bytes, s.journal_page, s.shadows, s.header,
    s.no_stop, s.guard_armed, s.fs_points_at_itself, s.go_pool, s.go_resumes, s.go_offset,
    s.next_site_id, s.log_id);
}

template <typename T>
Bytes bytes_of(const T& value) {
  Writer writer;
  writer(value);
  return std::move(writer.bytes);
}

template <typename T>
bool read_part(const Bytes& part, T* value) {
  Reader reader(part);
  reader(*value);
  return reader.done();
}

// One more element of a list, whose key it must say itself.
template <typename T, typename Key>
bool read_element(const PartKey& at, const Bytes& part, std::vector<T>* list, Key T::*key) {
  T& one = list->emplace_back();
  return read_part(part, &one) && one.*key == at.key;
}

bool add_part(const PartKey& at, const Bytes& part, SessionState* state) {
  switch (static_cast<PartKind>(at.kind)) {
    case PartKind::kSession:
      return at.key == 0 && read_part(part, state);
    case PartKind::kMap:
      return read_element(at, part, &state->maps, &MapState::addr);
    case PartKind::kImage:
      return read_element(at, part, &state->images, &ImageState::prog_id);
    case PartKind::kArena:
      return at.key == state->arenas.size() && read_part(part, &state->arenas.emplace_back());
    case PartKind::kRanges:
      return at.key == 0 && read_part(part, &state->ranges);
    case PartKind::kSite:
      return read_element(at, part, &state->sites, &SiteState::addr);
    case PartKind::kChanges:
      return at.key == 0 && read_part(part, &state->changes);
    case PartKind::kNote:
      state->notes.push_back({at.key, part});
      return true;
  }
  return false;
}

bool is_range(uint64_t base, uint64_t bytes) {
  return base != 0 && bytes != 0 && ((base | bytes) & kPageMask) == 0 && bytes <= kRangeBytesMax &&
         base < kUserEnd && bytes < kUserEnd - base;
}
bool is_within(uint64_t at, uint64_t bytes, const ArenaState& arena) {
  return at >= arena.base && at - arena.base <= arena.bytes &&
         bytes <= arena.bytes - (at - arena.base);
}

bool check_hooks(const std::vector<HookState>& hooks, const ArenaState& arena,
                 const SessionState& state) {
  for (const HookState& hook : hooks) {
    if (hook.counted_in >= state.arenas.size() || hook.kind > 5) return false;
    if (hook.stat >= HOOKS_PER_ARENA) return false;
    if (hook.slot != 0 && !is_within(hook.slot, 8, arena)) return false;
  }
  return true;
}

bool check_lanes(uint64_t head, const std::vector<LaneState>& lanes, const ArenaState& arena) {
  if (head == 0) return lanes.empty();
  const uint64_t block = head - rewrite::kBeforeHead;
  if (!is_within(block, rewrite::kHeadBytes, arena) || lanes.empty()) return false;
  if (lanes.size() > rewrite::kHeadLanes) return false;
  return std::all_of(lanes.begin(), lanes.end(), [&](const LaneState& lane) {
    return lane.body == 0 || is_within(lane.body, lane.body_bytes, arena);
  });
}

bool check_form(const PatchState& patch) {
  const bool relays = patch.pad != 0 || patch.landing != 0 || patch.landing_bytes != 0;
  switch (static_cast<rewrite::SiteForm>(patch.form)) {
    case rewrite::SiteForm::kJump:
      return patch.window >= rewrite::kJumpBytes && !relays && patch.pad_old.empty();
    case rewrite::SiteForm::kShort: {
      const int64_t rel = static_cast<int64_t>(patch.pad - patch.site - 2);
      return patch.window >= 2 && rel >= INT8_MIN && rel <= INT8_MAX &&
             patch.pad_old.size() == rewrite::kJumpBytes && patch.landing == 0;
    }
    case rewrite::SiteForm::kOneByte:
    case rewrite::SiteForm::kPunned: {
      const bool is_punned = patch.form == static_cast<uint8_t>(rewrite::SiteForm::kPunned);
      const uint64_t page = patch.landing & ~kPageMask;
      return patch.window >= 1 && (!is_punned || patch.window < rewrite::kJumpBytes) &&
             patch.pad == 0 && (is_punned || patch.count == 1) && patch.pad_old.empty() &&
             is_range(page, patch.landing_bytes) && patch.landing_bytes <= 2 * (kPageMask + 1) &&
             rewrite::fits_rel32(patch.site + rewrite::kJumpBytes, patch.landing);
    }
  }
  return false;
}

bool check_patch(const PatchState& patch, const ArenaState& arena) {
  const uint32_t window = patch.window;
  return check_form(patch) && window <= rewrite::kWindowBytesMax &&
         patch.keeps <= 2 * rewrite::kWindowBytesMax && patch.old_bytes.size() == window &&
         patch.count != 0 && patch.count <= window && patch.site != 0 && patch.site < kUserEnd &&
         check_lanes(patch.head, patch.lanes, arena) &&
         (patch.head == 0 ? !patch.on && patch.lane == 0 : patch.lane < patch.lanes.size()) &&
         is_within(patch.copy, window, arena) &&
         (patch.body == 0 || is_within(patch.body, patch.body_bytes, arena));
}

bool check_site(const SiteState& site, const SessionState& state) {
  if (site.arena >= state.arenas.size() || site.patches.empty() || site.exit_form > 2) return false;
  const ArenaState& arena = state.arenas[site.arena];
  for (size_t i = 0; i < site.patches.size(); ++i) {
    const PatchState& patch = site.patches[i];
    if (!check_patch(patch, arena) || (patch.is_entry ? i != 0 : !patch.is_exit)) return false;
  }
  return check_hooks(site.hooks, arena, state);
}

bool check_change(const ChangeState& change, const SessionState& state) {
  // In the order of their keys, as all parts.
  const auto site =
      std::lower_bound(state.sites.begin(), state.sites.end(), change.addr,
                       [](const SiteState& one, uint64_t addr) { return one.addr < addr; });
  if (site == state.sites.end() || site->addr != change.addr) return false;
  const ArenaState& arena = state.arenas[site->arena];
  if (change.steps.size() != site->patches.size() || change.exit_form > 2) return false;
  for (const StepState& step : change.steps) {
    if (step.body != 0 && !is_within(step.body, step.body_bytes, arena)) return false;
    if (!check_lanes(step.head, step.lanes, arena)) return false;
  }
  return check_hooks(change.hooks, arena, state) && check_hooks(change.dropped, arena, state);
}

bool check(const SessionState& state) {
  const agent_header& header = state.header;
  if (header.magic != AGENT_MAGIC || header.version != AGENT_V6) return false;
  if (!is_range(state.agent, state.agent_bytes)) return false;
  if (uint64_t{header.data_off} + header.data_bytes != state.agent_bytes) return false;
  for (const u32 off :
       {header.env_off, header.state_off, header.map_batch, header.push_return, header.pop_return,
        header.restore_returns, header.ret_stub, header.sigaction, header.guard_install,
        header.guard_remove, header.mask_site, header.clone_site, header.any_site,
        header.masks_take, header.masks_withdraw}) {
    if (off >= state.agent_bytes) return false;
  }
  if (state.shadows != 0 && !is_range(state.shadows, 4096)) return false;
  for (const MapState& map : state.maps) {
    // Where the journal itself lies is not believed but looked up.
    if (!is_range(map.addr, map.bytes) || map.name.size() > kNameBytesMax) return false;
  }
  for (const ImageState& image : state.images) {
    if (!is_range(image.base, image.bytes)) return false;
  }
  for (const ArenaState& arena : state.arenas) {
    if (!is_range(arena.base, arena.bytes) || !is_range(arena.stats, arena.stats_bytes) ||
        arena.used > arena.bytes || arena.stats_used > HOOKS_PER_ARENA) {
      return false;
    }
  }
  for (const ArenaState& range : state.ranges) {
    if (!is_range(range.base, range.bytes)) return false;
  }
  for (const SiteState& site : state.sites) {
    if (!check_site(site, state)) return false;
  }
  for (const ChangeState& change : state.changes) {
    if (!check_change(change, state)) return false;
  }
  return true;
}

}  // namespace

Parts encode(const SessionState& state) {
  Parts parts;
  parts[part_key(PartKind::kSession)] = bytes_of(state);
  for (const MapState& map : state.maps) {
    parts[part_key(PartKind::kMap, map.addr)] = bytes_of(map);
  }
  for (const ImageState& image : state.images) {
    parts[part_key(PartKind::kImage, image.prog_id)] = bytes_of(image);
  }
  for (size_t i = 0; i < state.arenas.size(); ++i) {
    parts[part_key(PartKind::kArena, i)] = bytes_of(state.arenas[i]);
  }
  parts[part_key(PartKind::kRanges)] = bytes_of(state.ranges);
  for (const SiteState& site : state.sites) {
    parts[part_key(PartKind::kSite, site.addr)] = bytes_of(site);
  }
  if (!state.changes.empty()) parts[part_key(PartKind::kChanges)] = bytes_of(state.changes);
  for (const NoteState& note : state.notes) {
    parts[part_key(PartKind::kNote, note.key)] = note.text;
  }
  return parts;
}

Result<SessionState> decode(const Parts& parts) {
  SessionState state;
  for (const auto& [key, part] : parts) {
    if (!add_part(key, part, &state)) return fail(EINVAL, "its journal makes no sense");
  }
  if (!check(state)) return fail(EINVAL, "its journal makes no sense");
  return state;
}

}  // namespace bpftime::target

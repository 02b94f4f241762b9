// SPDX-License-Identifier: MIT
// SessionState: all that a daemon must know to go on with a session which another daemon began:
// plain data, as it is written into the journal (journal.h), a part for each thing that changes by
// itself. What can be derived from it (copies, jumps, free counters, text of images) is not in it.
//
// decode() trusts nothing: the bytes may come from anybody who could map a file into a process.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "../abi/agent.h"
#include "../base/result.h"
#include "journal.h"

namespace bpftime::target {

struct MapState {
  uint32_t id = 0;  // in the daemon that wrote this; so are all ids here
  uint64_t addr = 0, bytes = 0;
  uint32_t type = 0, key_size = 0, value_size = 0, max_entries = 0, flags = 0;
  std::string name;
};
struct ImageState {
  uint32_t prog_id = 0;
  uint64_t base = 0, bytes = 0;
  uint32_t clobbers = 0;
};
struct ArenaState {
  uint64_t base = 0, bytes = 0, used = 0, stats = 0, stats_bytes = 0;
  uint32_t stats_used = 0;  // counters, from the first on
};
struct LaneState {
  uint64_t body = 0;
  uint32_t body_bytes = 0;
  std::vector<uint64_t> calls;
};
struct HookState {
  uint32_t hook_id = 0, prog_id = 0;
  uint8_t kind = 0;
  bool on_return = false, enabled = true, stubbed = false;
  uint64_t cookie = 0, slot = 0, entry = 0;
  uint32_t counted_in = 0, stat = 0;  // an arena's index, and the counter in it
  uint64_t unwound_before = 0;
};
struct PatchState {
  uint64_t site = 0;
  uint32_t window = 0, count = 0, keeps = 0;
  bool at_entry = false, falls_through = true, loops_to_site = false, behind_check = false;
  bool is_go = false, has_room = false, may_fault = false;
  bool is_exit = false, is_entry = false, on = false;
  uint8_t form = 0;  // rewrite::SiteForm
  uint64_t pad = 0, landing = 0, landing_bytes = 0;
  std::vector<uint8_t> old_bytes, pad_old;
  uint64_t head = 0, copy = 0, body = 0;
  uint32_t body_bytes = 0;
  uint32_t lane = 0;  // index
  std::vector<LaneState> lanes;
};
struct SiteState {
  uint32_t id = 0;
  uint64_t addr = 0, function = 0;
  uint32_t function_size = 0;
  uint8_t exit_form = 0;
  uint64_t go_morestack = 0;
  uint32_t go_morestack_size = 0;
  uint32_t arena = 0;  // index
  uint64_t inode = 0;
  bool exits_planned = false;
  std::vector<PatchState> patches;  // the entry first, then exits
  std::vector<HookState> hooks;
};
// A change that was about to be made: whoever finds it makes it (again).
struct StepState {
  uint64_t body = 0;  // 0: off
  uint32_t body_bytes = 0;
  std::vector<uint64_t> calls;
  uint64_t head = 0;  // not 0: another than the patch's
  std::vector<LaneState> lanes;
};
struct ChangeState {
  uint64_t addr = 0;
  uint8_t exit_form = 0;
  bool removes = false, lets_finish = false;
  std::vector<HookState> hooks, dropped;
  std::vector<uint64_t> left_slots;
  std::vector<StepState> steps;  // one for each patch of the site
};
// Of whoever uses sessions; not looked into.
struct NoteState {
  uint64_t key = 0;
  std::vector<uint8_t> text;
};

/// Kinds of parts. Keys: of maps their address, of images the program, of arenas their index, of
/// sites the wanted address, of notes what their writer chose; of the others, 0.
enum class PartKind : uint32_t {
  kSession,
  kMap,
  kImage,
  kArena,
  kRanges,
  kSite,
  kChanges,
  kNote,
};
constexpr PartKey part_key(PartKind kind, uint64_t key = 0) {
  return {static_cast<uint32_t>(kind), key};
}

struct SessionState {
  uint64_t pid = 0, start_time = 0, enter_ns = 0;
  uint64_t agent = 0, agent_bytes = 0, journal_page = 0, shadows = 0;
  agent_header header{};
  bool no_stop = false, guard_armed = false, fs_points_at_itself = false;
  uint64_t go_pool = 0, go_resumes = 0;
  int32_t go_offset = 0;
  uint32_t next_site_id = 0, log_id = 0;
  std::vector<MapState> maps;
  std::vector<ImageState> images;
  std::vector<ArenaState> arenas;
  std::vector<SiteState> sites;
  std::vector<ChangeState> changes;
  std::vector<ArenaState> ranges;  // other memory of ours: base and bytes
  std::vector<NoteState> notes;
};

/// Lists may be excerpts: a step's worth of parts. Without changes there is no part of them.
Parts encode(const SessionState& state);

/// EINVAL: not what encode() makes of a whole state, or it contradicts itself (indices, sizes,
/// alignment).
Result<SessionState> decode(const Parts& parts);

}  // namespace bpftime::target

// SPDX-License-Identifier: MIT
// Session: where a diverted place leads, changed while the target runs.
//
// Lanes, a head and its first body:   -56 e9 copy   -48 e9 body   ...   +0 a8 rel8 | eb rel8   +2
// The head is `test al, imm8` (a8), which goes on into the body behind it, or a short jump (eb) to
// a lane. Where flags are live it is always a jump, if only to the next byte.
// Everything else of a new body is written first, to bytes that no thread executes yet; then one
// byte of the head makes it current: the displacement of a jump, or the opcode after the
// displacement, which `test` ignores. Nothing else changes under running threads, and it must stay
// so: the kernel copies what we write to /proc/PID/mem with `rep movsb` (access_remote_vm, memcpy),
// which is no single store, so an address or a jump of five bytes could be seen half written.
// One byte cannot, and either value makes a whole instruction: a processor that fetches it goes
// where it led or where it leads (AMD APM vol. 2, 7.6.1; the kernel relies on the same when
// text_poke_bp replaces the first byte of an instruction that others execute). Should one ever see
// the second of two writes without the first, it takes lane 0: behind a `test` stands no other. Old
// bodies stay valid for whoever is in them, as nothing is freed here. Text is written here only
// where the user asked for it (no_stop, SiteForm::kOneByte), and one byte of it: see docs/adr/0021.
#include <algorithm>

#include "../rewrite/trampoline.h"
#include "session.h"
#include "session_parts.h"

namespace bpftime::target {

namespace {

constexpr uint8_t kShortJump = 0xeb;
constexpr uint8_t kTestAl = 0xa8;
constexpr uint8_t kTrap = 0xcc;

uint64_t lane_addr(uint64_t head, size_t lane) {
  return head - rewrite::kLaneBytes * (rewrite::kHeadLanes - lane);
}

// A body that lies right behind its head needs no lane: that saves the common case a jump.
bool is_adjacent(uint64_t head, uint64_t body) { return body == head + rewrite::kGateBytes; }

uint8_t displacement_to(uint64_t head, size_t lane) {
  return static_cast<uint8_t>(lane_addr(head, lane) - head - rewrite::kGateBytes);
}

}  // namespace

// A head that leads to the copy, where no thread comes yet.
Result<void> Session::put_head(uint64_t head, uint64_t copy, std::vector<Lane>* lanes) const {
  std::vector<uint8_t> bytes(rewrite::kHeadBytes, kTrap);
  bytes[rewrite::kBeforeHead] = kShortJump;
  bytes[rewrite::kBeforeHead + 1] = displacement_to(head, 0);
  const Result<void> wrote = put(head - rewrite::kBeforeHead, bytes.data(), bytes.size());
  if (!wrote) return wrote;
  lanes->assign(1, Lane{copy, 0, {}});
  return put_lane(head, 0, copy);
}

Result<void> Session::put_lane(uint64_t head, size_t lane, uint64_t body) const {
  if (is_adjacent(head, body)) return {};
  const uint64_t at = lane_addr(head, lane);
  const std::vector<uint8_t> bytes = jump_bytes(at, body, rewrite::kLaneBytes);
  return put(at, bytes.data(), bytes.size());
}

// Each put is one byte.
Result<void> Session::aim(const Patch& patch, uint64_t head, size_t lane, uint64_t body) const {
  const bool flags_dead = patch.plan.at_entry && !patch.plan.loops_to_site && !patch.is_go;
  const bool is_next = is_adjacent(head, body);
  const bool tests = is_next && flags_dead;
  const uint8_t opcode = tests ? kTestAl : kShortJump;
  const uint8_t displacement = is_next && !tests ? 0 : displacement_to(head, tests ? 0 : lane);
  Result<void> first = tests ? put(head, &opcode, 1) : put(head + 1, &displacement, 1);
  if (!first) return first;
  return tests ? put(head + 1, &displacement, 1) : put(head, &opcode, 1);
}

// A lane for each body. Nothing that is written here is in use: lanes that the head does not take,
// heads that no text leads to.
Result<void> Session::choose_lanes(Change* change) {
  for (Change::Step& step : change->steps) {
    if (step.body == 0) continue;
    const Result<void> chosen = choose_lane(change->site->arena, &step);
    if (!chosen) return chosen;
    if (step.patch->on && step.head == 0) continue;
    const uint64_t head = step.head != 0 ? step.head : step.patch->head;
    const Result<void> aimed = aim(*step.patch, head, step.lane, step.body);
    if (!aimed) return aimed;
  }
  return {};
}

Result<void> Session::choose_lane(Arena* arena, ChangeStep* step) {
  Patch& patch = *step->patch;
  const auto known = std::find_if(patch.lanes.begin(), patch.lanes.end(),
                                  [&](const Lane& lane) { return lane.body == step->body; });
  step->lane = static_cast<size_t>(known - patch.lanes.begin());
  if (known != patch.lanes.end()) return {};
  uint64_t head = patch.head;
  std::vector<Lane>* lanes = &patch.lanes;
  if (patch.lanes.size() == rewrite::kHeadLanes) {
    const Result<uint64_t> fresh = allocate(arena, rewrite::kHeadBytes, rewrite::kBlockAlign);
    if (!fresh) return fresh.error();
    step->head = head = fresh.value() + rewrite::kBeforeHead;
    lanes = &step->lanes;
    const Result<void> headed = put_head(head, patch.copy, lanes);
    if (!headed) return headed;
    step->new_bytes = site_bytes(patch, head);
    step->lane = 1;
  } else {
    step->lanes_before = patch.lanes.size();
  }
  lanes->push_back(Lane{step->body, step->body_bytes, step->calls});
  return put_lane(head, step->lane, step->body);
}

// Undoes choose_lanes and put_code, whose memory is given back: no head leads there.
void Session::drop_lanes(const Change& change) {
  for (const ChangeStep& step : change.steps) {
    if (step.lanes_before != 0) step.patch->lanes.resize(step.lanes_before);
    if (!step.made_head) continue;
    step.patch->head = 0;
    step.patch->lanes.clear();
    step.patch->new_bytes.clear();
  }
}

// The change has happened. A body that calls through a slot which is left goes with the slot.
void Session::settle_lanes(const Site& site, const std::vector<uint64_t>& left_slots,
                           ChangeStep* step) {
  Patch& patch = *step->patch;
  if (step->head != 0) {
    retire_head(site, patch);
    patch.head = step->head;
    patch.lanes = std::move(step->lanes);
    patch.new_bytes = std::move(step->new_bytes);
  }
  for (size_t i = 1; i < patch.lanes.size(); ++i) {
    Lane& lane = patch.lanes[i];
    const bool calls_left = std::any_of(lane.calls.begin(), lane.calls.end(), [&](uint64_t word) {
      return std::find(left_slots.begin(), left_slots.end(), word) != left_slots.end();
    });
    if (lane.body == 0 || !calls_left || (step->body != 0 && i == step->lane)) continue;
    retire_body(site, patch.head, lane);
    retired_[site.id].ways.push_back({site.arena, lane_addr(patch.head, i), rewrite::kLaneBytes});
    lane = Lane{};
  }
  patch.on = step->body != 0;
  patch.body = step->body;
  patch.body_bytes = step->body_bytes;
  patch.lane = step->lane;
  patch.is_fresh = false;
}

// Text that changes needs a stop, and so do programs that may not run once more for calls that are
// under way: those of removed hooks, and returns that were caught at the function's entry.
bool Session::needs_stop(const Change& change) const {
  if (no_stop_ && is_one_byte(change)) return false;
  if (change.removes) return true;
  if (!change.dropped.empty() && !change.request.lets_finish) return true;
  for (const Change::Step& step : change.steps) {
    if (!step.patch->on && step.body != 0) return true;
    if (step.head != 0) return true;
    if (step.patch->on && step.body == 0 && !change.dropped.empty()) return true;
  }
  return std::any_of(change.hooks.begin(), change.hooks.end(), [&](const Hook& hook) {
    return !hook.request.enabled && hook.request.on_return && !hook.stubbed &&
           change.request.exit_form != ExitForm::kRet;
  });
}

// Whether one byte of text at each place makes the change, and calls that are under way may end
// with the programs that they began with.
bool Session::is_one_byte(const Change& change) {
  return std::all_of(change.steps.begin(), change.steps.end(), [](const ChangeStep& step) {
    return step.patch->plan.form == rewrite::SiteForm::kOneByte && step.head == 0;
  });
}

// One step of the quiet way. What is switched off rests at the copy; what goes leaves the text.
Result<void> Session::switch_step(const Change& change, ChangeStep* step) const {
  const Patch& patch = *step->patch;
  if (patch.on && !change.removes) {
    if (step->body == 0) step->body = patch.copy;
    return aim(patch, patch.head, step->lane, step->body);
  }
  if (step->vanished || (!patch.on && step->body == 0)) return {};
  if (!patch.on) {
    const Result<void> landed = write_relay(patch, patch.head, true);
    if (!landed) return landed;
  }
  const std::vector<uint8_t>& bytes = patch.on ? patch.old_bytes : patch.new_bytes;
  return put(patch.plan.site, bytes.data(), 1);
}

Result<void> Session::undo_step(const ChangeStep& step) const {
  const Patch& patch = *step.patch;
  if (patch.on) {
    const Result<void> aimed = aim(patch, patch.head, patch.lane, patch.body);
    if (!aimed || patch.plan.form != rewrite::SiteForm::kOneByte) return aimed;
  }
  if (step.vanished || patch.plan.form != rewrite::SiteForm::kOneByte) return {};
  return put(patch.plan.site, (patch.on ? patch.new_bytes : patch.old_bytes).data(), 1);
}

// The quiet way, for changes that need no stop.
Result<ApplyReport> Session::switch_bodies(std::vector<Change>* changes) {
  for (Change& change : *changes) {
    const Result<void> as_planned = check_bytes(&change, true);
    if (!as_planned) return as_planned.error();
  }
  std::vector<const ChangeStep*> switched;
  Result<void> aimed;
  for (Change& change : *changes) {
    for (Change::Step& step : change.steps) {
      if (!aimed || (!step.patch->on && step.body == 0)) continue;
      aimed = switch_step(change, &step);
      switched.push_back(&step);
    }
  }
  if (!aimed) {
    for (const ChangeStep* step : switched) static_cast<void>(undo_step(*step));
    // Threads may be in the new bodies: their memory is not given back.
    taken_.clear();
    for (Change& change : *changes) {
      for (Change::Step& step : change.steps) step.lanes_before = 0;
    }
    return aimed.error();
  }
  for (Change& change : *changes) settle(&change);
  return ApplyReport{};
}

}  // namespace bpftime::target

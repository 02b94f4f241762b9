// SPDX-License-Identifier: MIT
// When a path may be left: a state that was walked to its end before covers this one. Numbers count
// only where their value decided something below, slots only where they were looked at; which that
// are is noted in the checkpoints while their paths are walked, back through every number's
// origins.
#include <algorithm>

#include "explorer.h"

namespace bpftime::verify {

namespace {

constexpr uint32_t kCheckpointDistance = 8;  // instructions between two on a path
constexpr uint32_t kLoopCheckpointDistance = 100;
constexpr uint32_t kAncestorsCompared = 8;
constexpr uint32_t kAncestorsMany = 32;
constexpr size_t kKeptCompared = 64;         // of those kept at one place, once many are ancestors
constexpr uint32_t kMissesPerHit = 8;        // what misses more often is not worth keeping
constexpr uint64_t kComparedMax = 80000000;  // registers and slots, over all comparisons
constexpr uint16_t kSavedRegs = 0x3c0;       // r6-r9: what a caller has after a call

/// Whether `old` covers `now`, with the names of one translated to those of the other.
class Comparison {
 public:
  Comparison(const Checkpoint& old, const State& now, Mode mode, bool has_names)
      : old_(old), now_(now), mode_(mode), has_names_(has_names) {}

  bool holds(const Flow& flow, const std::vector<uint16_t>& live_before) {
    if (!same_frames()) return false;
    for (uint32_t f = 0; f < now_.frames.size(); ++f) {
      if (!frame_holds(f, live_regs(f, flow, live_before))) return false;
    }
    return held_holds();
  }

  /// Registers and slots that were looked at.
  [[nodiscard]] uint64_t compared() const { return compared_; }

 private:
  using Names = std::vector<std::pair<uint32_t, uint32_t>>;

  bool same_frames() const {
    const auto& a = old_.state.frames;
    const auto& b = now_.frames;
    if (a.size() != b.size() || old_.state.held.size() != now_.held.size()) return false;
    for (size_t f = 0; f < a.size(); ++f) {
      if (a[f].call_slot != b[f].call_slot || a[f].subprog != b[f].subprog ||
          a[f].entry != b[f].entry || a[f].held_before != b[f].held_before) {
        return false;
      }
    }
    return true;
  }

  [[nodiscard]] uint16_t live_regs(uint32_t f, const Flow& flow,
                                   const std::vector<uint16_t>& live_before) const {
    if (f + 1 == now_.frames.size()) return live_before[now_.slot];
    const Frame& callee = now_.frames[f + 1];
    if (callee.entry != Entry::kCall) return live_before[callee.call_slot];
    return live_before[flow.next(callee.call_slot)] & kSavedRegs;
  }

  bool frame_holds(uint32_t f, uint16_t live) {
    const Frame& a = old_.state.frames[f];
    const Frame& b = now_.frames[f];
    const Marks::OfFrame& exact = old_.exact.frames[f];
    for (uint32_t r = 0; r < isa::kFrameReg; ++r) {
      if ((live >> r & 1) == 0) continue;
      ++compared_;
      if (!reg_holds(a.regs[r], b.regs[r], (exact.regs >> r & 1) != 0)) return false;
    }
    const auto slots = static_cast<uint32_t>(std::max(a.stack.size(), b.stack.size()));
    const Slot empty;
    for (uint32_t i = 0; i < slots; ++i) {
      if (mode_ == Mode::kUsed && (old_.read.frames[f].slots >> i & 1) == 0) continue;
      ++compared_;
      const Slot& old_slot = i < a.stack.size() ? a.stack[i] : empty;
      const Slot& now_slot = i < b.stack.size() ? b.stack[i] : empty;
      if (!slot_holds(old_slot, now_slot, (exact.slots >> i & 1) != 0)) return false;
    }
    return true;
  }

  bool reg_holds(const Reg& a, const Reg& b, bool is_exact) {
    if (!a.is_set()) return mode_ != Mode::kSame || !b.is_set();
    if (a.kind != b.kind) return false;
    if (a.is_number()) {
      if (mode_ == Mode::kUsed && !is_exact) return true;
      if (mode_ == Mode::kSame && !(a.num == b.num)) return false;
      return a.num.includes(b.num) && name_holds(&numbers_, a.id, b.id) &&
             name_holds(&halves_, a.low_id, b.low_id) && name_holds(&halves_, a.high_id, b.high_id);
    }
    if (a.map != b.map || a.frame != b.frame || a.maybe_null != b.maybe_null) return false;
    if (a.kind == Kind::kPacket ? b.bytes < a.bytes : a.bytes != b.bytes) return false;
    if (mode_ == Mode::kSame ? !(a.num == b.num) : !a.num.includes(b.num)) return false;
    if (a.maybe_null && !pointer_name(a.id, b.id)) return false;
    return (a.ref == 0) == (b.ref == 0) && (a.ref == 0 || pointer_name(a.ref, b.ref));
  }

  bool slot_holds(const Slot& a, const Slot& b, bool is_exact) {
    if (a.spilled_bytes != 0 && a.spilled_bytes == b.spilled_bytes) {
      if (!reg_holds(a.spill, b.spill, is_exact)) return false;
    } else if (a.spilled_bytes != 0) {
      // A number that mattered to nobody: any data will do in its place.
      if (mode_ != Mode::kUsed || is_exact || !a.spill.is_number()) return false;
    } else if (b.spilled_bytes != 0 && !b.spill.is_number()) {
      return false;
    }
    if (mode_ == Mode::kSame && a.bytes != b.bytes) return false;
    for (uint32_t i = 0; i < kSlotBytes; ++i) {
      const Slot::Byte want = a.bytes[i];
      const Slot::Byte have = b.bytes[i];
      if (want == Slot::kEmpty) continue;
      if (have == Slot::kEmpty) return false;
      const bool is_zero = have == Slot::kZero || (have == Slot::kSpilled && b.spill.is_const(0));
      if (want == Slot::kZero && !is_zero) return false;
    }
    return true;
  }

  /// Equal numbers there must be equal numbers here.
  [[nodiscard]] bool name_holds(Names* names, uint32_t a, uint32_t b) const {
    if (a == 0 || !has_names_) return true;
    for (const auto& [from, to] : *names) {
      if (from == a) return to == b && b != 0;
    }
    names->emplace_back(a, b);
    return true;
  }

  /// The same pointer there is the same here, and different ones are different.
  bool pointer_name(uint32_t a, uint32_t b) {
    for (const auto& [from, to] : pointers_) {
      if (from == a || to == b) return from == a && to == b;
    }
    pointers_.emplace_back(a, b);
    return true;
  }

  /// Each held record of this state is one of that; those that no register knows are counted.
  bool held_holds() {
    for (size_t i = 0; i < now_.held.size(); ++i) {
      if (!pointer_name(old_.state.held[i].ref, now_.held[i].ref)) return false;
    }
    return true;
  }

  const Checkpoint& old_;
  const State& now_;
  Mode mode_;
  bool has_names_;
  Names numbers_;
  Names halves_;
  Names pointers_;
  uint64_t compared_ = 1;
};

}  // namespace

bool Explorer::covers(const Checkpoint& old, Mode mode) {
  Comparison comparison(old, now_, mode, !is_weak(kForgetLinks));
  const bool holds = comparison.holds(flow_, shared_->live_before);
  compared_ += comparison.compared();
  return holds;
}

/// We are in a function that is called back, and since that ancestor it was called once more.
bool Explorer::is_newer_round(uint32_t ancestor) const {
  for (uint32_t at = now_.checkpoint; at != kNone && at != ancestor;
       at = checkpoints_[at]->parent) {
    const State& round = checkpoints_[at]->state;
    const size_t depth = round.frames.size();
    if (!checkpoints_[at]->is_loop || depth >= now_.frames.size()) continue;
    const Frame& callback = now_.frames[depth];
    const bool is_called_back =
        callback.entry == Entry::kLoopCallback || callback.entry == Entry::kEachCallback;
    if (is_called_back && callback.call_slot == round.slot &&
        now_.frames[depth - 1].round_id == round.frames.back().round_id) {
      return true;
    }
  }
  return false;
}

bool Explorer::arrive(bool* is_covered) {
  std::vector<uint32_t>& kept = shared_->kept_at[now_.slot];
  uint32_t ancestors = 0;
  for (size_t i = kept.size(); i-- > 0;) {
    Checkpoint& old = *checkpoints_[kept[i]];
    if (old.is_loop) continue;
    const bool is_ancestor = old.open > 0;
    if (is_ancestor && ++ancestors > kAncestorsCompared) {
      if (kept.size() - i > kKeptCompared) break;
      continue;
    }
    if (compared_ > kComparedMax) {
      return refuse(E2BIG,
                    "the program is too complex: too many different states of its registers "
                    "meet (split it, or bound its loops by constants)");
    }
    const Mode mode =
        is_ancestor ? Mode::kSame : (options_.is_exact ? Mode::kIncluded : Mode::kUsed);
    if (covers(old, mode)) {
      if (is_ancestor) {
        if (is_newer_round(kept[i])) continue;  // it ends with its rounds: converge()
        return refuse(EINVAL,
                      "the loop may run for ever: one round of it leaves everything as it "
                      "was (count, and compare with a constant: for (i = 0; i < N; i++))");
      }
      ++old.hits;
      inherit(old);
      *is_covered = true;
      return true;
    }
    if (is_ancestor || ++old.misses <= old.hits * kMissesPerHit + kMissesPerHit) continue;
    kept_bytes_ -= old.state.size_bytes();
    checkpoints_[kept[i]].reset();
    kept.erase(kept.begin() + static_cast<ptrdiff_t>(i));
  }
  // Rounds of a long loop have little to say to each other, and there are many of them.
  const uint32_t distance =
      ancestors > kAncestorsMany ? kLoopCheckpointDistance : kCheckpointDistance;
  if (now_.walked >= distance || now_.checkpoint == kNone) take_checkpoint(false);
  return true;
}

void Explorer::take_checkpoint(bool is_loop) {
  const uint64_t bytes = now_.size_bytes();
  if (kept_bytes_ + bytes > kStateBytesMax) return;
  kept_bytes_ += bytes;
  auto checkpoint = std::make_unique<Checkpoint>();
  checkpoint->state = now_;
  checkpoint->parent = now_.checkpoint;
  checkpoint->is_loop = is_loop;
  const auto index = static_cast<uint32_t>(checkpoints_.size());
  checkpoints_.push_back(std::move(checkpoint));
  shared_->kept_at[now_.slot].push_back(index);
  kept_slots_.push_back(now_.slot);
  now_.checkpoint = index;
  if (!is_loop) now_.walked = 0;
  for (uint32_t f = 0; f < now_.frames.size(); ++f) {
    Frame& frame = now_.frames[f];
    frame.written = 0;
    for (uint32_t r = 0; r < kRegs; ++r) {
      frame.regs[r].origins.clear();
      frame.regs[r].origins.add(place_of_reg(f, r));
    }
    for (uint32_t i = 0; i < frame.stack.size(); ++i) {
      if (frame.stack[i].spilled_bytes == 0) continue;
      frame.stack[i].spill.origins.clear();
      frame.stack[i].spill.origins.add(place_of_slot(f, i));
    }
  }
}

/// What mattered to the old state matters to this one, and to those that led to it.
void Explorer::inherit(const Checkpoint& old) {
  for (uint32_t f = 0; f < now_.frames.size(); ++f) {
    const Marks::OfFrame& exact = old.exact.frames[f];
    Frame& frame = now_.frames[f];
    for (uint32_t r = 0; r < kRegs; ++r) {
      if ((exact.regs >> r & 1) != 0 && frame.regs[r].is_number()) {
        mark_exact(frame.regs[r].origins);
      }
    }
    for (uint32_t i = 0; i < kSlots; ++i) {
      const bool is_read = (old.read.frames[f].slots >> i & 1) != 0;
      if (is_read) mark_read(f, i);
      if (i >= frame.stack.size() || frame.stack[i].spilled_bytes == 0) continue;
      const Reg& spill = frame.stack[i].spill;
      const bool counts_as_zero = is_read && i < old.state.frames[f].stack.size() &&
                                  old.state.frames[f].stack[i].spilled_bytes == 0;
      if (spill.is_number() && ((exact.slots >> i & 1) != 0 || counts_as_zero)) {
        mark_exact(spill.origins);
      }
    }
  }
}

void Explorer::mark_exact(const Origins& origins) {
  struct Work {
    uint32_t checkpoint;
    Origins origins;
  };
  if (is_weak(kForgetExact)) return;
  if (!origins.is_everything() && origins.count() == 0) return;
  std::vector<Work> work{{now_.checkpoint, origins}};
  while (!work.empty()) {
    const Work item = work.back();
    work.pop_back();
    if (item.checkpoint == kNone) continue;
    Checkpoint& checkpoint = *checkpoints_[item.checkpoint];
    Origins further;
    const auto visit = [&](Place place, const Reg& reg) {
      if (checkpoint.exact.add(place) && reg.is_number()) further.add(reg.origins);
    };
    const auto reg_at = [&](Place place) -> const Reg& {
      const Frame& frame = checkpoint.state.frames[place / (kRegs + kSlots)];
      const uint32_t index = place % (kRegs + kSlots);
      return index < kRegs ? frame.regs[index] : frame.stack[index - kRegs].spill;
    };
    for (uint32_t i = 0; i < item.origins.count(); ++i) {
      visit(item.origins.at(i), reg_at(item.origins.at(i)));
    }
    for (uint32_t f = 0; item.origins.is_everything() && f < checkpoint.state.frames.size(); ++f) {
      const Frame& frame = checkpoint.state.frames[f];
      for (uint32_t r = 0; r < kRegs; ++r) visit(place_of_reg(f, r), frame.regs[r]);
      for (uint32_t s = 0; s < frame.stack.size(); ++s) {
        if (frame.stack[s].spilled_bytes != 0) visit(place_of_slot(f, s), frame.stack[s].spill);
      }
    }
    if (further.is_everything() || further.count() > 0) {
      work.push_back({checkpoint.parent, further});
    }
  }
}

void Explorer::mark_everything() {
  for (uint32_t f = 0; f < now_.frames.size(); ++f) {
    for (const Reg& reg : now_.frames[f].regs) {
      if (reg.is_number()) mark_exact(reg.origins);
    }
    for (uint32_t i = 0; i < now_.frames[f].stack.size(); ++i) {
      mark_read(f, i);
      const Slot& slot = now_.frames[f].stack[i];
      if (slot.spilled_bytes != 0 && slot.spill.is_number()) mark_exact(slot.spill.origins);
    }
  }
}

/// At a call that calls back: the state is compared whole with those of earlier rounds, and what
/// changes from round to round is given up, so that it comes to an end.
bool Explorer::converge(bool* is_covered) {
  for (const uint32_t index : shared_->kept_at[now_.slot]) {
    const Checkpoint& old = *checkpoints_[index];
    if (!old.is_loop || compared_ > kComparedMax) continue;
    // Rounds of one call end with it; another call of the same is another turn of a loop around it.
    if (old.open > 0 && old.state.frames.back().round_id != now_.frame().round_id) continue;
    if (!covers(old, Mode::kIncluded)) continue;
    mark_everything();
    *is_covered = true;
    return true;
  }
  for (uint32_t at = now_.checkpoint; at != kNone; at = checkpoints_[at]->parent) {
    const Checkpoint& old = *checkpoints_[at];
    if (!old.is_loop || old.state.slot != now_.slot ||
        old.state.frames.size() != now_.frames.size() ||
        old.state.frames.back().round_id != now_.frame().round_id) {
      continue;
    }
    *is_covered = is_weak(kTrustCallbacks);
    mark_everything();
    widen(old.state);
    break;
  }
  if (!*is_covered) take_checkpoint(true);
  return true;
}

void Explorer::widen(const State& before) {
  const auto give_up = [](const Reg& old, Reg& reg) {
    if (!old.is_number() || !reg.is_number() || old.num == reg.num) return;
    reg = Reg::number(Scalar::any());
  };
  for (uint32_t f = 0; f < now_.frames.size(); ++f) {
    Frame& frame = now_.frames[f];
    const Frame& old = before.frames[f];
    for (uint32_t r = 0; r < kRegs; ++r) give_up(old.regs[r], frame.regs[r]);
    for (uint32_t i = 0; i < std::min(frame.stack.size(), old.stack.size()); ++i) {
      Slot& slot = frame.stack[i];
      if (slot.spilled_bytes == 0 || !slot.spill.is_number()) continue;
      if (old.stack[i].spilled_bytes == slot.spilled_bytes) {
        give_up(old.stack[i].spill, slot.spill);
      } else {
        slot.unspill();
      }
    }
  }
}

}  // namespace bpftime::verify

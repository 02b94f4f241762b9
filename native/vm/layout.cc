// SPDX-License-Identifier: MIT
// Order of blocks. See layout.h.
#include "layout.h"

#include <algorithm>
#include <utility>

namespace bpftime {
namespace {

using namespace isa;

constexpr uint32_t kNone = UINT32_MAX;
constexpr uint32_t kSlotsMax = 1u << 16;  // longer functions keep their order
constexpr uint32_t kStepsPerBlock = 16;
constexpr uint32_t kUnrolledSlots = 10;  // of a loop that is written several times
constexpr uint32_t kTurns = 2;           // how many times

struct Block {
  uint32_t start;
  uint32_t end;
  uint32_t fall = kNone;   // block that it goes on into
  uint32_t taken = kNone;  // block that its jump leads to
  uint32_t depth = 0;      // how many loops it is in
  bool is_placed = false;
};

class Layout {
 public:
  Layout(const Flow& flow, const Subprog& subprog) : flow_(flow), subprog_(subprog) {}

  std::vector<Segment> run() {
    split();
    link();
    if (!find_loops()) return {{subprog_.start, subprog_.end}};
    for (uint32_t b = 0; b <= blocks_.size(); ++b) left_.push_back(b);
    std::vector<Segment> segments;
    for (uint32_t b = 0; b != kNone; b = successor(b)) {
      Block& block = blocks_[b];
      block.is_placed = true;
      left_[b] = b + 1;
      const uint32_t turns = is_short_loop(b) ? kTurns : 1;
      const bool is_joined =
          turns == 1 && !segments.empty() && segments.back().end == block.start && !was_loop_;
      if (is_joined) {
        segments.back().end = block.end;
      } else {
        segments.insert(segments.end(), turns, {block.start, block.end});
      }
      was_loop_ = turns != 1;
    }
    return segments;
  }

 private:
  /// A branch over a goto is one jump, as the compiler makes it.
  [[nodiscard]] bool is_over_goto(uint32_t slot) const {
    return flow_.insns[slot].is_branch() && flow_.decided[slot] == Flow::kOpen &&
           slot + 2 < subprog_.end && flow_.jump_target(slot) == slot + 2 &&
           flow_.insns[slot + 1].is_goto() && flow_.is_target[slot + 1] == 0;
  }

  void split() {
    block_at_.assign(subprog_.end - subprog_.start, kNone);
    bool is_open = false;
    for (uint32_t i = subprog_.start; i < subprog_.end;) {
      const Insn& insn = flow_.insns[i];
      const uint32_t next = is_over_goto(i) ? i + 2 : flow_.next(i);
      if (flow_.is_reachable[i] == 0) {
        is_open = false;
        i = next;
        continue;
      }
      if (!is_open || flow_.is_target[i] != 0) {
        block_at_[i - subprog_.start] = static_cast<uint32_t>(blocks_.size());
        blocks_.push_back({i, i});
      }
      blocks_.back().end = next;
      is_open = !insn.is_exit() && !insn.is_goto() && !insn.is_branch();
      last_.resize(blocks_.size());
      last_.back() = i;
      i = next;
    }
  }

  [[nodiscard]] uint32_t block_at(uint32_t slot) const {
    return slot < subprog_.end ? block_at_[slot - subprog_.start] : kNone;
  }

  void link() {
    for (uint32_t b = 0; b < blocks_.size(); ++b) {
      Block& block = blocks_[b];
      const uint32_t last = last_[b];
      const Insn& insn = flow_.insns[last];
      if (insn.is_exit()) continue;
      const bool is_branch = insn.is_branch();
      const bool is_always = insn.is_goto() || (is_branch && flow_.decided[last] == Flow::kAlways);
      const bool is_open = is_branch && flow_.decided[last] == Flow::kOpen;
      if (is_always || is_open) {
        block.taken = block_at(flow_.jump_target(is_over_goto(last) ? last + 1 : last));
      }
      if (!is_always) block.fall = block_at(block.end);
    }
  }

  /// Depth of each block, by the jumps that close loops and who reaches them. False if none does.
  bool find_loops() {
    std::vector<std::pair<uint32_t, uint32_t>> closers;  // head of a loop, block that jumps there
    find_closers(&closers);
    if (closers.empty()) return false;
    std::sort(closers.begin(), closers.end());
    const std::vector<std::vector<uint32_t>> from = predecessors();
    uint64_t steps = uint64_t{kStepsPerBlock} * blocks_.size() + 1000;
    std::vector<uint32_t> seen(blocks_.size(), kNone);
    std::vector<uint32_t> work;
    for (size_t i = 0; i < closers.size();) {
      const uint32_t head = closers[i].first;
      seen[head] = head;
      ++blocks_[head].depth;
      for (; i < closers.size() && closers[i].first == head; ++i) work.push_back(closers[i].second);
      while (!work.empty()) {
        const uint32_t b = work.back();
        work.pop_back();
        if (seen[b] == head) continue;
        if (steps-- == 0) return true;
        seen[b] = head;
        ++blocks_[b].depth;
        work.insert(work.end(), from[b].begin(), from[b].end());
      }
    }
    return true;
  }

  [[nodiscard]] std::vector<std::vector<uint32_t>> predecessors() const {
    std::vector<std::vector<uint32_t>> from(blocks_.size());
    for (uint32_t b = 0; b < blocks_.size(); ++b) {
      if (blocks_[b].fall != kNone) from[blocks_[b].fall].push_back(b);
      if (blocks_[b].taken != kNone) from[blocks_[b].taken].push_back(b);
    }
    return from;
  }

  void find_closers(std::vector<std::pair<uint32_t, uint32_t>>* closers) {
    enum State : uint8_t { kNew, kOnPath, kDone };
    std::vector<State> state(blocks_.size(), kNew);
    std::vector<std::pair<uint32_t, uint32_t>> path{{0, 0}};  // block, edges looked at
    state[0] = kOnPath;
    while (!path.empty()) {
      auto& [b, edge] = path.back();
      if (edge == 2) {
        state[b] = kDone;
        path.pop_back();
        continue;
      }
      const uint32_t to = edge++ == 0 ? blocks_[b].fall : blocks_[b].taken;
      if (to == kNone || state[to] == kDone) continue;
      if (state[to] == kOnPath) {
        closers->emplace_back(to, b);
      } else {
        state[to] = kOnPath;
        path.emplace_back(to, 0);
      }
    }
  }

  [[nodiscard]] bool is_open(uint32_t b) const { return b != kNone && !blocks_[b].is_placed; }

  /// The block that is written after `b`; kNone if all are.
  uint32_t successor(uint32_t b) {
    const Block& block = blocks_[b];
    const bool can_fall = is_open(block.fall);
    const bool can_jump = is_open(block.taken);
    if (can_fall && can_jump) {
      return blocks_[block.taken].depth > blocks_[block.fall].depth ? block.taken : block.fall;
    }
    if (can_fall) return block.fall;
    if (can_jump && (block.fall != kNone || leads_on(b))) return block.taken;
    // The next one that is left, else the first.
    uint32_t next = first_left(b + 1);
    if (next == blocks_.size()) next = first_left(0);
    return next < blocks_.size() ? next : kNone;
  }

  /// The first block from `b` on that is not placed; their number if all are.
  uint32_t first_left(uint32_t b) {
    uint32_t end = b;
    while (left_[end] != end) end = left_[end];
    while (left_[b] != end) b = std::exchange(left_[b], end);
    return end;
  }

  /// Whether what a goto leads to is better written here than after the block before it.
  [[nodiscard]] bool leads_on(uint32_t b) const {
    const uint32_t to = blocks_[b].taken;
    if (blocks_[to].depth > blocks_[b].depth) return true;
    return to == 0 || blocks_[to - 1].fall != to;
  }

  [[nodiscard]] bool is_short_loop(uint32_t b) const {
    const Block& block = blocks_[b];
    if (block.taken != b || block.fall == kNone || block.end - block.start > kUnrolledSlots) {
      return false;
    }
    for (uint32_t i = block.start; i < block.end; i = flow_.next(i)) {
      if (flow_.insns[i].is_call() || flow_.insns[i].is_atomic()) return false;
    }
    return true;
  }

  const Flow& flow_;
  const Subprog& subprog_;
  std::vector<Block> blocks_;       // by start
  std::vector<uint32_t> last_;      // per block: the instruction that ends it
  std::vector<uint32_t> block_at_;  // per slot of the function: the block that begins there
  std::vector<uint32_t> left_;      // per block: itself, or one nearer to the first that is left
  bool was_loop_ = false;
};

}  // namespace

std::vector<Segment> layout(const Flow& flow, const Subprog& subprog) {
  if (subprog.end - subprog.start > kSlotsMax) return {{subprog.start, subprog.end}};
  return Layout(flow, subprog).run();
}

}  // namespace bpftime

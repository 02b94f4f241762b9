// SPDX-License-Identifier: MIT
#include "function_parts.h"

#include <algorithm>
#include <map>

namespace bpftime::rewrite {

namespace {

constexpr size_t kPartsMax = 32;
constexpr uint64_t kPartBytesMax = 64 << 10;

// Follows the jumps out of a function from part to part.
class Parts {
 public:
  Parts(const FunctionView& function, const PieceFinder& piece_at, const MemoryReader& read)
      : function_(function), piece_at_(piece_at), read_(read) {}

  // False: some way leads out of the function and its parts.
  bool follow() {
    if (!follow_jumps(function_)) return false;
    while (!todo_.empty()) {
      const unwind::CodePiece part = todo_.back();
      todo_.pop_back();
      if (!look_at(part)) return false;
    }
    return true;
  }

  [[nodiscard]] const std::vector<uint64_t>& returns_to() const { return returns_to_; }

 private:
  [[nodiscard]] bool is_within(const FunctionView& view, uint64_t addr) const {
    return addr >= view.addr && addr < view.addr + view.size;
  }

  bool look_at(const unwind::CodePiece& part) {
    const auto size = static_cast<uint32_t>(part.end - part.start);
    std::vector<uint8_t> bytes(size);
    if (!read_(part.start, bytes.data(), size)) return false;
    const Result<FunctionView> view = decode_function(part.start, size, bytes, read_);
    // How much is on its stack is not known, so no indirect jump of it is understood.
    const bool is_plain =
        view.ok() && view.value().decoded_end == size &&
        std::none_of(view.value().insns.begin(), view.value().insns.end(), [](const Insn& insn) {
          return insn.is_ret || insn.is_indirect_jump || (insn.is_trap && !insn.is_padding);
        });
    return is_plain && follow_jumps(view.value());
  }

  bool follow_jumps(const FunctionView& from) {
    for (const Insn& insn : from.insns) {
      if (insn.is_tail_jump) return false;
      if (!insn.is_branch || is_within(from, insn.branch_target)) continue;
      if (is_within(function_, insn.branch_target)) {
        returns_to_.push_back(insn.branch_target);
        continue;
      }
      if (!come(insn.branch_target)) return false;
    }
    return true;
  }

  bool come(uint64_t target) {
    const std::optional<unwind::CodePiece> part = piece_at_(target);
    if (!part || !part->is_part() || target < part->start || target >= part->end) return false;
    if (part->end - part->start > kPartBytesMax) return false;
    if (part->start < function_.addr + function_.size && function_.addr < part->end) return false;
    if (!known_.emplace(part->start, part->end).second) return true;
    if (known_.size() > kPartsMax) return false;
    todo_.push_back(*part);
    return true;
  }

  const FunctionView& function_;
  const PieceFinder& piece_at_;
  const MemoryReader& read_;
  std::map<uint64_t, uint64_t> known_;  // parts: start, end
  std::vector<unwind::CodePiece> todo_;
  std::vector<uint64_t> returns_to_;
};

}  // namespace

void join_parts(FunctionView* function, const PieceFinder& piece_at, const MemoryReader& read) {
  if (!function->has_tail_jump || function->decoded_end < function->size) return;
  Parts parts(*function, piece_at, read);
  if (!parts.follow()) return;
  function->has_tail_jump = false;
  std::vector<uint64_t>& targets = function->branch_targets;
  targets.insert(targets.end(), parts.returns_to().begin(), parts.returns_to().end());
  std::sort(targets.begin(), targets.end());
}

}  // namespace bpftime::rewrite

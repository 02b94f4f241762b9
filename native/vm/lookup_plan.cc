// SPDX-License-Identifier: MIT
#include "lookup_plan.h"

#include <linux/bpf.h>

#include <algorithm>

namespace bpftime {
namespace {

using namespace isa;

/// Value of a register inside one basic block.
struct Known {
  enum Kind : uint8_t { kNothing, kConst, kStack, kMap } kind = kNothing;
  uint64_t value = 0;                      // constant, offset from r10 (as int64), or map id
  uint32_t first_def = 0, second_def = 0;  // slots that made it, to be elided; equal if one
};

struct StackWord {
  int32_t off;
  uint32_t value;
};

bool inlinable(const MapGeometry& geometry, uint32_t cpu_features) {
  // Offsets of elements must fit the arithmetic below and the GOT's notion of a value.
  if (geometry.max_entries == 0 || geometry.value_stride == 0) return false;
  if (geometry.value_stride > INT32_MAX || geometry.elem_stride > INT32_MAX) return false;
  if (geometry.type == BPF_MAP_TYPE_ARRAY) return true;
  return geometry.type == BPF_MAP_TYPE_PERCPU_ARRAY && (cpu_features & kCpuRdpid) != 0;
}

bool is_hash(const MapGeometry& geometry) {
  return geometry.type == BPF_MAP_TYPE_HASH || geometry.type == BPF_MAP_TYPE_PERCPU_HASH;
}

/// Keys of one word, and everything within reach of a displacement.
bool hash_inlinable(const MapGeometry& geometry, uint32_t cpu_features) {
  if (geometry.key_size != 4 && geometry.key_size != 8) return false;
  if (geometry.bucket_count == 0 || geometry.elem_stride > INT32_MAX) return false;
  if (geometry.data_off > INT32_MAX || geometry.bucket_off > INT32_MAX) return false;
  if (geometry.max_entries > INT32_MAX || geometry.value_stride > INT32_MAX) return false;
  return geometry.type == BPF_MAP_TYPE_HASH || (cpu_features & kCpuRdpid) != 0;
}

/// Follows constants, stack addresses and map references through each basic block.
class Scan {
 public:
  Scan(const Flow& flow, const std::vector<uint16_t>& live, const CompileOptions& options,
       std::vector<uint8_t>* elided)
      : flow_(flow), live_(live), options_(options), elided_(elided) {}

  /// Looks at the instruction at `slot`; true if it is a lookup to be inlined.
  bool step(uint32_t slot, InlineLookup* lookup) {
    if (flow_.is_target[slot] != 0) forget();
    const Insn& insn = flow_.insns[slot];
    if (insn.is_call()) {
      const bool inlined = plan_lookup(slot, lookup);
      if (!inlined) words_.clear();  // a callee may write to our stack
      for (uint8_t r = 0; r <= 5; ++r) regs_[r] = {};
      return inlined;
    }
    if (insn.is_goto() || insn.is_exit()) {
      forget();
    } else if (insn.is_alu() || insn.is_lddw()) {
      step_value(slot, insn);
    } else if (insn.cls() == kSt || insn.cls() == kStx) {
      step_store(insn);
    } else if (insn.cls() == kLdx) {
      regs_[insn.dst] = {};
    }
    return false;
  }

 private:
  void forget() {
    for (Known& known : regs_) known = {};
    regs_[kFrameReg] = {Known::kStack, 0, 0, 0};
    words_.clear();
  }

  void step_value(uint32_t slot, const Insn& insn) {
    Known& dst = regs_[insn.dst];
    if (insn.is_lddw()) {
      const bool is_map = insn.src == kPseudoMapFd || insn.src == kPseudoMapIdx;
      dst = is_map ? Known{Known::kMap, static_cast<uint32_t>(insn.imm), slot, slot} : Known{};
      return;
    }
    const bool wide = insn.cls() == kAlu64;
    if (insn.op() == kMov && !insn.src_is_reg()) {
      const uint64_t value = wide ? static_cast<uint64_t>(int64_t{insn.imm})
                                  : uint64_t{static_cast<uint32_t>(insn.imm)};
      dst = {Known::kConst, value, slot, slot};
    } else if (insn.op() == kMov && wide && insn.off == 0) {
      dst = regs_[insn.src];
      dst.first_def = dst.second_def = slot;
    } else if (insn.op() == kAdd && wide && !insn.src_is_reg() && dst.kind == Known::kStack) {
      dst.value += static_cast<uint64_t>(int64_t{insn.imm});
      // Only the pair `mov rX, r10; add rX, imm` can be elided as a whole.
      if (dst.first_def != dst.second_def) dst.kind = Known::kNothing;
      dst.second_def = slot;
    } else {
      dst = {};
    }
  }

  void step_store(const Insn& insn) {
    if (insn.is_atomic() || insn.dst != kFrameReg) {
      words_.clear();
      const RegUse use = reg_use(insn);
      for (uint8_t r = 0; r < kFrameReg; ++r) {
        if ((use.writes >> r & 1) != 0) regs_[r] = {};
      }
      return;
    }
    const int32_t begin = insn.off;
    const int32_t end = begin + static_cast<int32_t>(insn.size_bytes());
    std::erase_if(words_, [&](const StackWord& w) { return w.off < end && begin < w.off + 4; });
    const bool is_const = insn.cls() == kSt || regs_[insn.src].kind == Known::kConst;
    if (!is_const || insn.size_bytes() < 4) return;
    const uint64_t value =
        insn.cls() == kSt ? static_cast<uint64_t>(int64_t{insn.imm}) : regs_[insn.src].value;
    words_.push_back({begin, static_cast<uint32_t>(value)});
  }

  bool plan_lookup(uint32_t slot, InlineLookup* lookup) {
    const CallTarget target = flow_.call_target(slot);
    if (!target.is_helper || target.value != BPF_FUNC_map_lookup_elem) return false;
    const Known& map = regs_[1];
    if (map.kind != Known::kMap) return false;
    *lookup = {};
    lookup->map_id = static_cast<uint32_t>(map.value);
    lookup->geometry = options_.geometry(options_.user, lookup->map_id);
    lookup->is_hash = is_hash(lookup->geometry);
    const bool fits = lookup->is_hash ? hash_inlinable(lookup->geometry, options_.cpu_features)
                                      : inlinable(lookup->geometry, options_.cpu_features);
    if (!fits) return false;
    const Known& key = regs_[2];
    if (key.kind == Known::kStack) {
      const auto off = static_cast<int64_t>(key.value);
      const int key_bytes = lookup->is_hash ? static_cast<int>(lookup->geometry.key_size) : 4;
      if (off >= -static_cast<int64_t>(kFrameBytes) && off <= -key_bytes) {
        lookup->key_off = static_cast<int32_t>(off);
        for (const StackWord& word : words_) {
          if (word.off == off && !lookup->is_hash) lookup->key = word.value;
        }
        try_elide(key, 2, slot);
      }
    }
    try_elide(map, 1, slot);
    return true;
  }

  /// Drops the instructions that made `known` in `reg`, if only the call at `call` would read it.
  void try_elide(const Known& known, uint8_t reg, uint32_t call) {
    const auto reads = [&](uint32_t slot) {
      return (reg_use(flow_.insns[slot]).reads >> reg & 1) != 0;
    };
    for (uint32_t i = flow_.next(known.first_def); i < call; i = flow_.next(i)) {
      if (i != known.second_def && reads(i)) return;
      if (!flow_.insns[i].is_branch()) continue;
      const uint32_t target = flow_.jump_target(i);
      const RegUse use = reg_use(flow_.insns[target]);
      if ((((live_[target] & ~use.writes) | use.reads) >> reg & 1) != 0) return;
    }
    // The definition must be of this very register (a copy of another has other readers).
    for (const uint32_t def : {known.first_def, known.second_def}) {
      if (flow_.insns[def].dst != reg) return;
    }
    (*elided_)[known.first_def] = 1;
    (*elided_)[known.second_def] = 1;
  }

  const Flow& flow_;
  const std::vector<uint16_t>& live_;
  const CompileOptions& options_;
  std::vector<uint8_t>* elided_;
  Known regs_[kFrameReg + 1];
  std::vector<StackWord> words_;
};

}  // namespace

LookupPlan::LookupPlan(const Flow& flow, const std::vector<uint16_t>& live,
                       const CompileOptions& options) {
  if (options.geometry == nullptr || !options.inline_helpers) return;
  elided_.assign(flow.insns.size(), 0);
  Scan scan(flow, live, options, &elided_);
  for (uint32_t i = 0; i < flow.insns.size(); i = flow.next(i)) {
    InlineLookup lookup;
    if (flow.is_reachable[i] == 0 || !scan.step(i, &lookup)) continue;
    slots_.push_back(i);
    lookups_.push_back(lookup);
  }
  if (slots_.empty()) elided_.clear();
}

const InlineLookup* LookupPlan::at(uint32_t slot) const {
  const auto found = std::lower_bound(slots_.begin(), slots_.end(), slot);
  if (found == slots_.end() || *found != slot) return nullptr;
  return &lookups_[static_cast<size_t>(found - slots_.begin())];
}

}  // namespace bpftime

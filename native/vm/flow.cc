// SPDX-License-Identifier: MIT
// Structural validation, second half: where control can go.
#include "flow.h"

#include <algorithm>

namespace bpftime {
namespace {

using namespace isa;

constexpr uint32_t kConstantWindow = 64;  // instructions constant_def() looks back at most

Verdict refuse(const Flow& flow, uint32_t slot, const char* reason) {
  return Verdict{false, slot, flow.insns[slot].opcode, reason};
}

/// First slot named by a local call or function address at `slot`; -1 if it names none.
int64_t function_ref(const Flow& flow, uint32_t slot) {
  const Insn& insn = flow.insns[slot];
  const bool is_call = insn.opcode == kOpCall && insn.src == kCallLocal;
  const bool is_func = insn.is_lddw() && insn.src == kPseudoFunc;
  return is_call || is_func ? int64_t{slot} + 1 + insn.imm : -1;
}

bool names_function(const Insn& insn) {
  return (insn.opcode == kOpCall && insn.src == kCallLocal) ||
         (insn.is_lddw() && insn.src == kPseudoFunc);
}

void decode_all(std::span<const uint64_t> slots, Flow* flow) {
  const size_t count = slots.size();
  flow->insns.resize(count);
  flow->is_target.assign(count, 0);
  flow->is_second.assign(count, 0);
  flow->is_reachable.assign(count, 0);
  flow->decided.assign(count, Flow::kOpen);
  for (size_t i = 0; i < count; ++i) flow->insns[i] = decode(slots[i]);
  for (size_t i = 0; i + 1 < count; ++i) {
    if (flow->is_second[i] == 0 && flow->insns[i].is_lddw()) flow->is_second[i + 1] = 1;
  }
}

Verdict find_subprogs(Flow* flow) {
  const auto count = static_cast<uint32_t>(flow->insns.size());
  std::vector<uint8_t> kind(count, 0);  // bit 0: starts a subprogram, bit 1: address taken
  kind[0] = 1;
  for (uint32_t i = 0; i < count; i = flow->next(i)) {
    if (!names_function(flow->insns[i])) continue;
    const int64_t start = function_ref(*flow, i);
    if (start < 0 || start >= count) return refuse(*flow, i, "function is outside the program");
    if (flow->is_second[start] != 0) {
      return refuse(*flow, i, "function begins inside a 64-bit immediate");
    }
    kind[start] |= flow->insns[i].is_lddw() ? 3 : 1;
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (kind[i] == 0) continue;
    if (!flow->subprogs.empty()) flow->subprogs.back().end = i;
    flow->subprogs.push_back(Subprog{i, count, (kind[i] & 2) != 0});
    flow->has_callbacks |= flow->subprogs.back().address_taken;
    flow->is_target[i] = 1;
  }
  return {};
}

Verdict check_jumps(Flow* flow, const Subprog& subprog) {
  uint32_t last = subprog.start;
  for (uint32_t i = subprog.start; i < subprog.end; i = flow->next(i)) {
    last = i;
    const Insn& insn = flow->insns[i];
    if (!insn.is_goto() && !insn.is_branch()) continue;
    const int64_t target = int64_t{i} + 1 + insn.jump_off();
    if (target < 0 || target >= static_cast<int64_t>(flow->insns.size())) {
      return refuse(*flow, i, "jump leads outside the program");
    }
    if (target < subprog.start || target >= subprog.end) {
      return refuse(*flow, i, "jump leads into another function");
    }
    if (flow->is_second[target] != 0) {
      return refuse(*flow, i, "jump leads into a 64-bit immediate");
    }
    flow->is_target[target] = 1;
  }
  const Insn& insn = flow->insns[last];
  if (insn.is_exit() || insn.is_goto()) return {};
  return refuse(*flow, last, "control falls off the end of the function");
}

template <typename U, typename S>
bool compare(uint8_t op, U a, U b) {
  const auto sa = static_cast<S>(a);
  const auto sb = static_cast<S>(b);
  switch (op) {
    case kJeq:
      return a == b;
    case kJne:
      return a != b;
    case kJgt:
      return a > b;
    case kJge:
      return a >= b;
    case kJlt:
      return a < b;
    case kJle:
      return a <= b;
    case kJset:
      return (a & b) != 0;
    case kJsgt:
      return sa > sb;
    case kJsge:
      return sa >= sb;
    case kJslt:
      return sa < sb;
    default:
      return sa <= sb;
  }
}

/// The number that a constant load leaves in its register; false for addresses.
bool constant_value(const Flow& flow, int64_t def, uint64_t* value) {
  if (def < 0) return false;
  const Insn& insn = flow.insns[def];
  if (insn.is_lddw()) {
    *value = lddw_imm(insn, flow.insns[def + 1]);
    return insn.src == 0;
  }
  *value = insn.cls() == kAlu64 ? static_cast<uint64_t>(int64_t{insn.imm})
                                : uint64_t{static_cast<uint32_t>(insn.imm)};
  return true;
}

/// Whether a branch can go both ways. Loaders turn "does this field exist" into the comparison of
/// two constants, and what stands behind it may then be impossible code.
Flow::Decision decide(const Flow& flow, uint32_t slot) {
  const Insn& insn = flow.insns[slot];
  uint64_t left = 0;
  uint64_t right = static_cast<uint64_t>(int64_t{insn.imm});
  if (!constant_value(flow, constant_def(flow, slot, insn.dst), &left)) return Flow::kOpen;
  if (insn.src_is_reg() && !constant_value(flow, constant_def(flow, slot, insn.src), &right)) {
    return Flow::kOpen;
  }
  const bool taken = insn.cls() == kJmp
                         ? compare<uint64_t, int64_t>(insn.op(), left, right)
                         : compare<uint32_t, int32_t>(insn.op(), static_cast<uint32_t>(left),
                                                      static_cast<uint32_t>(right));
  return taken ? Flow::kAlways : Flow::kNever;
}

void mark_reachable(Flow* flow, const Subprog& subprog, std::vector<uint32_t>* work) {
  work->assign(1, subprog.start);
  while (!work->empty()) {
    uint32_t i = work->back();
    work->pop_back();
    while (flow->is_reachable[i] == 0) {
      flow->is_reachable[i] = 1;
      const Insn& insn = flow->insns[i];
      if (insn.is_exit()) break;
      bool jumps = insn.is_goto();
      if (insn.is_branch()) {
        flow->decided[i] = decide(*flow, i);
        jumps = flow->decided[i] == Flow::kAlways;
        if (flow->decided[i] == Flow::kOpen) work->push_back(flow->jump_target(i));
      }
      i = jumps ? flow->jump_target(i) : flow->next(i);
    }
  }
}

// What libbpf puts in place of an instruction whose relocation failed (src/relo_core.c, libbpf.c).
constexpr uint32_t kPoisonCore = 195896080;
constexpr uint32_t kPoisonMap = 2001000000;
constexpr uint32_t kPoisonKfuncEnd = 2003000000;

Verdict check_helper(const Flow& flow, uint32_t slot, const ValidateOptions& options) {
  if (options.defer_helpers) return {};
  const char* reason = helper_refusal(static_cast<uint32_t>(flow.insns[slot].imm), options.helpers);
  return reason == nullptr ? Verdict{} : refuse(flow, slot, reason);
}

Verdict check_callx(const Flow& flow, uint32_t slot, const ValidateOptions& options) {
  const int64_t def = constant_def(flow, slot, flow.insns[slot].callx_reg());
  if (def < 0) {
    return refuse(flow, slot,
                  "callx needs a register that the same block loaded with a helper id or function");
  }
  const Insn& insn = flow.insns[def];
  if (insn.is_lddw() && insn.src == kPseudoFunc) return {};
  const bool is_id = !insn.is_lddw() || insn.src == 0;
  const bool high = insn.is_lddw() && flow.insns[def + 1].imm != 0;
  const auto id = static_cast<uint32_t>(insn.imm);
  const HelperSet* helpers = options.defer_helpers ? nullptr : options.helpers;
  const bool known = is_id && !high && helper_refusal(id, helpers) == nullptr;
  return known ? Verdict{} : refuse(flow, slot, "no helper has this id");
}

/// Longest chain of frames that begins at each subprogram, by depth-first search of the call graph.
class CallGraph {
 public:
  explicit CallGraph(const Flow& flow)
      : flow_(flow), frames_(flow.subprogs.size(), 0), state_(flow.subprogs.size(), kNew) {}

  Verdict check() {
    for (uint32_t s = 0; s < flow_.subprogs.size(); ++s) {
      const Verdict verdict = visit(s);
      if (!verdict.ok) return verdict;
    }
    return {};
  }

 private:
  enum State : uint8_t { kNew, kOpen, kDone };
  struct Visit {
    uint32_t subprog;
    uint32_t slot;  // where its scan continues
  };

  Verdict visit(uint32_t root) {
    if (state_[root] != kNew) return {};
    std::vector<Visit> stack;
    open(root, &stack);
    while (!stack.empty()) {
      Visit& top = stack.back();
      const Subprog& subprog = flow_.subprogs[top.subprog];
      if (top.slot >= subprog.end) {
        state_[top.subprog] = kDone;
        stack.pop_back();
        continue;
      }
      const uint32_t slot = top.slot;
      if (!names_function(flow_.insns[slot])) {
        top.slot = flow_.next(slot);
        continue;
      }
      const uint32_t callee = flow_.subprog_of(static_cast<uint32_t>(function_ref(flow_, slot)));
      if (state_[callee] == kOpen) return refuse(flow_, slot, "function calls itself");
      if (state_[callee] == kNew) {
        open(callee, &stack);
        continue;  // this call is looked at again when the callee is done
      }
      uint32_t& frames = frames_[top.subprog];
      frames = std::max(frames, frames_[callee] + 1);
      if (frames > kCallFramesMax) {
        return refuse(flow_, slot, "calls nest deeper than 8 frames");
      }
      top.slot = flow_.next(slot);
    }
    return {};
  }

  void open(uint32_t subprog, std::vector<Visit>* stack) {
    state_[subprog] = kOpen;
    frames_[subprog] = 1;
    stack->push_back(Visit{subprog, flow_.subprogs[subprog].start});
  }

  const Flow& flow_;
  std::vector<uint32_t> frames_;
  std::vector<State> state_;
};

struct AbsentHelper {
  uint32_t first, last;
  const char* reason;
};

// Of the kernel's helpers those that people miss, with what to do instead.
constexpr AbsentHelper kAbsentHelpers[] = {
    {35, 35,
     "bpf_get_current_task is not offered: there is no kernel below a program of ours (use "
     "bpf_get_current_pid_tgid and bpf_get_current_comm)"},
    {37, 37,
     "bpf_current_task_under_cgroup is not offered: a process cannot ask the kernel for it (copy "
     "the object into the processes that are meant)"},
    {58, 58,
     "bpf_override_return is not offered to probes: they do not change what a function returns "
     "(copy the object to replace/FUNCTION, or write SEC(\"replace/FUNCTION\"))"},
    {80, 80, "bpf_get_current_cgroup_id is not offered: a process cannot ask the kernel for it"},
    {93, 94,
     "spin locks are not offered here (use atomic operations: __sync_fetch_and_add and its like)"},
    {169, 172, "timers are not offered: nobody would run them (look at the clock in the probe)"},
    {186, 187,
     "return values are not offered to programs of this kind (PT_REGS_RC in a uretprobe)"},
    {197, 203, "dynptrs are not offered here (bpf_ringbuf_output takes records of varying size)"},
    {209, 209, "user ring buffers are not offered here (write to a map)"},
};

}  // namespace

const char* helper_refusal(uint32_t id, const HelperSet* helpers) {
  if (id < kHelperIdMax && (helpers == nullptr || helpers->test(id))) return nullptr;
  const bool poisoned = id == kPoisonCore || (id >= kPoisonMap && id < kPoisonKfuncEnd);
  if (poisoned) return "uses a type, field, map or function that does not exist here";
  for (const AbsentHelper& absent : kAbsentHelpers) {
    if (absent.first <= id && id <= absent.last) return absent.reason;
  }
  return "no helper has this id";
}

uint32_t Flow::subprog_of(uint32_t slot) const {
  const auto after = std::upper_bound(subprogs.begin(), subprogs.end(), slot,
                                      [](uint32_t s, const Subprog& p) { return s < p.start; });
  return static_cast<uint32_t>(after - subprogs.begin()) - 1;
}

int64_t constant_def(const Flow& flow, uint32_t slot, uint8_t reg) {
  for (uint32_t n = 0; n < kConstantWindow && slot > 0 && flow.is_target[slot] == 0; ++n) {
    slot -= slot >= 2 && flow.is_second[slot - 1] != 0 ? 2 : 1;
    const Insn& insn = flow.insns[slot];
    if (insn.is_exit() || insn.is_goto()) return -1;
    if ((reg_use(insn).writes >> reg & 1) == 0) continue;
    const bool is_mov_imm = insn.is_alu() && insn.op() == kMov && !insn.src_is_reg();
    return insn.is_lddw() || is_mov_imm ? int64_t{slot} : -1;
  }
  return -1;
}

CallTarget Flow::call_target(uint32_t slot) const {
  const Insn& insn = insns[slot];
  if (insn.opcode == kOpCall) {
    if (insn.src == kCallHelper) return {true, static_cast<uint32_t>(insn.imm)};
    return {false, slot + 1 + static_cast<uint32_t>(insn.imm)};
  }
  const auto def = static_cast<uint32_t>(constant_def(*this, slot, insn.callx_reg()));
  const Insn& load = insns[def];
  const auto imm = static_cast<uint32_t>(load.imm);
  if (load.is_lddw() && load.src == kPseudoFunc) return {false, def + 1 + imm};
  return {true, imm};
}

Verdict build_flow(std::span<const uint64_t> slots, const ValidateOptions& options, Flow* flow) {
  *flow = Flow{};
  decode_all(slots, flow);
  Verdict verdict = find_subprogs(flow);
  if (!verdict.ok) return verdict;
  std::vector<uint32_t> work;
  for (const Subprog& subprog : flow->subprogs) {
    verdict = check_jumps(flow, subprog);
    if (!verdict.ok) return verdict;
    mark_reachable(flow, subprog, &work);
  }
  for (uint32_t i = 0; i < slots.size(); i = flow->next(i)) {
    const Insn& insn = flow->insns[i];
    if (flow->is_reachable[i] == 0) continue;
    if (insn.opcode == kOpCallx) verdict = check_callx(*flow, i, options);
    if (insn.opcode == kOpCall && insn.src == kCallHelper)
      verdict = check_helper(*flow, i, options);
    if (!verdict.ok) return verdict;
  }
  return CallGraph(*flow).check();
}

}  // namespace bpftime

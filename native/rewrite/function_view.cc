// SPDX-License-Identifier: MIT
#include "function_view.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace bpftime::rewrite {

namespace {

constexpr uint32_t kJumpTableEntriesMax = 4096;
constexpr uint32_t kElsewhereFirstMax = 16;
constexpr uint32_t kElsewhereMax = 4;
constexpr size_t kBranchTargetsMax = 1 << 20;

struct Decoded {
  ZydisDecodedInstruction insn;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

bool decode_one(const uint8_t* bytes, size_t size, Decoded* out) {
  static const ZydisDecoder decoder = [] {
    ZydisDecoder d;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return d;
  }();
  return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, size, &out->insn, out->operands));
}

bool is_direct(const Decoded& d) {
  return d.insn.operand_count_visible > 0 && d.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
         d.operands[0].imm.is_relative;
}

uint64_t relative_target(const Decoded& d, uint64_t addr) {
  return addr + d.insn.length + static_cast<uint64_t>(d.operands[0].imm.value.s);
}

bool is_cond_branch(const Decoded& d) { return d.insn.meta.category == ZYDIS_CATEGORY_COND_BR; }

// What the code of a function says about where its indirect jumps lead.
struct JumpHints {
  std::vector<uint64_t> bases;  // addresses in it that may be tables
  bool address_table = false;   // some jump goes through a table of addresses
  bool offset_table = false;    // some jump adds an entry to the table's address
  bool computed_jump = false;   // some jump goes to an address that was calculated
};

void note_table_bases(const Decoded& d, uint64_t addr, JumpHints* hints) {
  for (int i = 0; i < d.insn.operand_count_visible; ++i) {
    const ZydisDecodedOperand& op = d.operands[i];
    if (op.type != ZYDIS_OPERAND_TYPE_MEMORY) continue;
    if (op.mem.base == ZYDIS_REGISTER_RIP) {
      hints->bases.push_back(addr + d.insn.length + static_cast<uint64_t>(op.mem.disp.value));
    } else if (op.mem.scale >= 4 && op.mem.disp.value != 0) {
      hints->bases.push_back(static_cast<uint64_t>(op.mem.disp.value));
    }
  }
}

// How an instruction makes the value of the register that it writes.
enum class Origin : uint8_t { kNone, kLoad, kTableLoad, kSum, kMove, kOther };
struct Write {
  ZydisRegister reg = ZYDIS_REGISTER_NONE;
  Origin origin = Origin::kNone;
};

Write written_by(const Decoded& d) {
  Write write;
  const ZydisDecodedOperand& to = d.operands[0];
  if (d.insn.operand_count_visible == 0 || to.type != ZYDIS_OPERAND_TYPE_REGISTER ||
      (to.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) == 0) {
    return write;
  }
  write.reg = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, to.reg.value);
  write.origin = Origin::kOther;
  const ZydisDecodedOperand& from = d.operands[1];
  const bool by_register = from.type == ZYDIS_OPERAND_TYPE_REGISTER;
  const bool adds = d.insn.mnemonic == ZYDIS_MNEMONIC_ADD || d.insn.mnemonic == ZYDIS_MNEMONIC_SUB;
  if (adds && by_register) write.origin = Origin::kSum;
  if (d.insn.mnemonic == ZYDIS_MNEMONIC_LEA && from.mem.base != ZYDIS_REGISTER_NONE &&
      from.mem.index != ZYDIS_REGISTER_NONE && from.mem.scale == 1) {
    write.origin = Origin::kSum;
  }
  // glibc keeps pointers to functions mangled: xor %fs:0x30, reg comes last.
  const bool demangles =
      d.insn.mnemonic == ZYDIS_MNEMONIC_XOR && from.mem.segment == ZYDIS_REGISTER_FS;
  if (demangles && from.type == ZYDIS_OPERAND_TYPE_MEMORY) write.origin = Origin::kLoad;
  if (d.insn.mnemonic != ZYDIS_MNEMONIC_MOV) return write;
  if (by_register) write.origin = Origin::kMove;
  if (from.type == ZYDIS_OPERAND_TYPE_MEMORY) {
    write.origin = from.mem.scale == 8 ? Origin::kTableLoad : Origin::kLoad;
  }
  return write;
}

// Where the value in `reg` comes from, as far as the way there tells: backwards in the straight
// line, and over the end of one to the first branch that leads here.
Origin origin_of(ZydisRegister reg, const std::vector<Write>& writes,
                 const std::vector<Insn>& insns, const std::map<uint32_t, size_t>& came_from) {
  constexpr int kLookBack = 32;
  size_t i = writes.size();
  for (int step = 0; i > 0 && step < kLookBack; ++step) {
    if (insns[i - 1].ends_flow) {
      const auto branch = came_from.find(insns[i - 1].off + insns[i - 1].len);
      if (branch == came_from.end()) return Origin::kNone;
      i = branch->second;  // of the branch itself, which writes nothing
      continue;
    }
    if (writes[i - 1].reg == reg) return writes[i - 1].origin;
    --i;
  }
  return Origin::kNone;
}

// How many bytes the function has on the stack, followed in address order: a jump that leaves it
// for another function happens at 0, a jump through a pointer to a label of its own does not.
class StackDepth {
 public:
  /// Before the instruction at `off`.
  void arrive(uint32_t off) {
    const auto known = at_target_.find(off);
    if (known != at_target_.end())
      depth_ = known->second;
    else if (after_end_)
      depth_ = body_;
    after_end_ = false;
  }
  void pass(const Decoded& d, const Insn& insn, uint64_t func_addr) {
    const auto& to = d.operands[0];
    const bool on_rsp = d.insn.operand_count_visible == 2 &&
                        to.type == ZYDIS_OPERAND_TYPE_REGISTER &&
                        to.reg.value == ZYDIS_REGISTER_RSP;
    const auto& by = d.operands[1];
    const bool is_add = d.insn.mnemonic == ZYDIS_MNEMONIC_ADD;
    if (d.insn.mnemonic == ZYDIS_MNEMONIC_PUSH)
      depth_ += 8;
    else if (d.insn.mnemonic == ZYDIS_MNEMONIC_POP)
      depth_ -= 8;
    else if (d.insn.mnemonic == ZYDIS_MNEMONIC_LEAVE)
      depth_ = 0;
    else if (on_rsp && by.type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
             (is_add || d.insn.mnemonic == ZYDIS_MNEMONIC_SUB)) {
      depth_ += is_add ? -by.imm.value.s : by.imm.value.s;
    } else if (on_rsp && d.insn.mnemonic == ZYDIS_MNEMONIC_LEA &&
               by.mem.base == ZYDIS_REGISTER_RSP && by.mem.index == ZYDIS_REGISTER_NONE) {
      depth_ -= by.mem.disp.value;
    } else if (on_rsp && d.insn.mnemonic == ZYDIS_MNEMONIC_LEA) {
      depth_ = kAtBase;  // lea -40(%rbp), %rsp: pops follow
    } else if (on_rsp && d.insn.mnemonic == ZYDIS_MNEMONIC_MOV) {
      depth_ = kReplaced;  // as longjmp and eh_return do; or mov %rbp, %rsp
    }
    if (insn.is_call || insn.is_branch) body_ = depth_;
    if (insn.is_branch) {
      at_target_.emplace(static_cast<uint32_t>(insn.branch_target - func_addr), depth_);
    }
    after_end_ = insn.ends_flow;
  }
  /// Nothing of the function is on the stack, or it was taken down by a frame pointer.
  [[nodiscard]] bool is_down() const { return depth_ == 0 || depth_ < kAtBase / 2; }
  /// The stack is another one.
  [[nodiscard]] bool is_replaced() const { return depth_ < kReplaced / 2; }

 private:
  static constexpr int64_t kAtBase = -(int64_t{1} << 40);
  static constexpr int64_t kReplaced = -(int64_t{1} << 50);
  int64_t depth_ = 0;
  int64_t body_ = 0;  // as of the last call or branch: what code behind a jump usually has
  bool after_end_ = false;
  std::map<uint32_t, int64_t> at_target_;
};

void note_indirect_jump(Origin origin, const StackDepth& stack, Insn* insn, JumpHints* hints) {
  const bool stack_is_down = stack.is_down();
  if (stack.is_replaced()) {
    insn->is_tail_jump = true;
  } else if (origin == Origin::kTableLoad && hints->bases.empty() && stack_is_down) {
    insn->is_tail_jump = true;  // an interpreter's dispatch: its table is in a register for good
  } else if (origin == Origin::kTableLoad) {
    hints->address_table = true;
  } else if (origin == Origin::kSum) {
    hints->offset_table = true;
  } else if (origin != Origin::kOther && stack_is_down) {
    insn->is_tail_jump = true;  // through a pointer to a function
  } else {
    hints->computed_jump = true;
  }
}

Insn classify(const Decoded& d, uint64_t func_addr, uint32_t off) {
  Insn insn;
  insn.off = off;
  insn.len = d.insn.length;
  const uint64_t addr = func_addr + off;
  switch (d.insn.meta.category) {
    case ZYDIS_CATEGORY_RET:
      insn.is_ret = true;
      insn.is_far_ret = d.insn.mnemonic != ZYDIS_MNEMONIC_RET ||
                        d.insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR;
      insn.ends_flow = true;
      break;
    case ZYDIS_CATEGORY_CALL:
      insn.is_call = true;
      if (is_direct(d)) insn.branch_target = relative_target(d, addr);
      break;
    case ZYDIS_CATEGORY_UNCOND_BR:
      insn.ends_flow = d.insn.mnemonic == ZYDIS_MNEMONIC_JMP;
      if (is_direct(d)) {
        insn.is_branch = true;
        insn.branch_target = relative_target(d, addr);
      } else {
        insn.is_indirect_jump = true;
      }
      break;
    default:
      break;
  }
  if (is_cond_branch(d) || d.insn.mnemonic == ZYDIS_MNEMONIC_XBEGIN) {
    insn.is_branch = true;
    insn.branch_target = relative_target(d, addr);
  }
  if (d.insn.mnemonic == ZYDIS_MNEMONIC_UD2 || d.insn.mnemonic == ZYDIS_MNEMONIC_HLT) {
    insn.ends_flow = true;
  }
  insn.is_trap = d.insn.mnemonic == ZYDIS_MNEMONIC_INT3;
  insn.is_padding = insn.is_trap || d.insn.mnemonic == ZYDIS_MNEMONIC_NOP;
  return insn;
}

// Reads entries at `base` and keeps those that lead into the function; returns how many did. Some
// may lead elsewhere: to the part of the function that the compiler put among the cold ones. What
// is read beyond the table's end can only make us more careful.
template <typename Entry>
uint32_t read_table(uint64_t base, const FunctionView& view, const MemoryReader& read,
                    std::vector<uint64_t>* targets) {
  constexpr uint32_t kAtOnce = 64;
  uint32_t count = 0, elsewhere = 0;
  for (uint32_t first = 0; first < kJumpTableEntriesMax; first += kAtOnce) {
    Entry entries[kAtOnce];
    uint32_t got = kAtOnce;
    while (got > 0 && !read(base + first * sizeof(Entry), entries, got * sizeof(Entry))) got /= 2;
    for (uint32_t i = 0; i < got; ++i) {
      const uint64_t target = sizeof(Entry) == 4
                                  ? base + static_cast<uint64_t>(static_cast<int64_t>(entries[i]))
                                  : static_cast<uint64_t>(entries[i]);
      if (target < view.addr || target >= view.addr + view.size) {
        if (++elsewhere > (count == 0 ? kElsewhereFirstMax : kElsewhereMax)) return count;
        continue;
      }
      elsewhere = 0;
      ++count;
      targets->push_back(target);
    }
    if (got < kAtOnce) break;
  }
  return count;
}

void resolve_tables(const JumpHints& hints, const MemoryReader& read, FunctionView* view) {
  if (hints.computed_jump) view->has_unknown_jump = true;
  if ((!hints.address_table && !hints.offset_table) || hints.computed_jump) return;
  uint32_t entries = 0;
  std::vector<uint64_t> bases = hints.bases;
  std::sort(bases.begin(), bases.end());
  bases.erase(std::unique(bases.begin(), bases.end()), bases.end());
  for (const uint64_t base : bases) {
    if (view->branch_targets.size() > kBranchTargetsMax) {
      view->has_unknown_jump = true;  // nobody wrote that by hand or with a compiler
      return;
    }
    if (base >= view->addr && base < view->addr + view->size) continue;
    auto* const targets = &view->branch_targets;
    if (hints.offset_table) entries += read_table<int32_t>(base, *view, read, targets);
    if (hints.address_table) entries += read_table<int64_t>(base, *view, read, targets);
  }
  if (entries == 0) view->has_unknown_jump = true;
}

}  // namespace

const Insn* FunctionView::at(uint32_t off) const {
  const auto it = std::lower_bound(insns.begin(), insns.end(), off,
                                   [](const Insn& insn, uint32_t o) { return insn.off < o; });
  return it != insns.end() && it->off == off ? &*it : nullptr;
}

Result<FunctionView> decode_function(uint64_t addr, uint32_t size, std::span<const uint8_t> bytes,
                                     const MemoryReader& read) {
  if (size == 0 || bytes.size() < size) return fail(EINVAL, "function has no bytes");
  FunctionView view;
  view.addr = addr;
  view.size = size;
  view.bytes.assign(bytes.begin(), bytes.begin() + std::min<size_t>(bytes.size(), size + 16));
  JumpHints hints;
  std::vector<Write> writes;
  std::map<uint32_t, size_t> came_from;  // target → index of the first branch to it
  StackDepth stack;
  uint32_t off = 0;
  while (off < size) {
    Decoded d;
    if (!decode_one(bytes.data() + off, bytes.size() - off, &d)) break;
    Insn insn = classify(d, addr, off);
    stack.arrive(off);
    note_table_bases(d, addr + off, &hints);
    if (insn.is_indirect_jump) {
      const ZydisDecodedOperand& to = d.operands[0];
      Origin origin = to.mem.scale == 8 ? Origin::kTableLoad : Origin::kLoad;
      if (to.type == ZYDIS_OPERAND_TYPE_REGISTER) {
        origin = origin_of(to.reg.value, writes, view.insns, came_from);
      }
      note_indirect_jump(origin, stack, &insn, &hints);
    }
    if (insn.branch_target != 0 && !insn.is_call) {
      const bool inside = insn.branch_target >= addr && insn.branch_target < addr + size;
      if (inside) view.branch_targets.push_back(insn.branch_target);
      if (!inside) view.has_tail_jump = true;
    }
    if (insn.is_tail_jump) view.has_tail_jump = true;
    if (insn.is_branch) {
      came_from.emplace(static_cast<uint32_t>(insn.branch_target - addr), view.insns.size());
    }
    stack.pass(d, insn, addr);
    writes.push_back(written_by(d));
    view.insns.push_back(insn);
    off += insn.len;
  }
  view.decoded_end = std::min(off, size);
  if (view.insns.empty()) return fail(EINVAL, "first instruction cannot be decoded");
  resolve_tables(hints, read, &view);
  std::sort(view.branch_targets.begin(), view.branch_targets.end());
  return view;
}

}  // namespace bpftime::rewrite

// SPDX-License-Identifier: MIT
#include "function_view.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstring>

namespace bpftime::rewrite {

namespace {

constexpr uint32_t kJumpTableEntriesMax = 4096;
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

// Tables that the function's code points at: candidates for the targets of its indirect jumps.
struct TableHints {
  std::vector<uint64_t> bases;
  bool scaled_jump = false;    // jmp [base + index*8]
  bool register_jump = false;  // jmp reg
  bool loads_offsets = false;  // movsxd: 32-bit table entries relative to the table
  bool other_jump = false;     // jmp [reg + disp], jmp [rip + x]: leaves the function
};

void note_hints(const Decoded& d, uint64_t addr, TableHints* hints) {
  if (d.insn.mnemonic == ZYDIS_MNEMONIC_MOVSXD) hints->loads_offsets = true;
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

void note_indirect_jump(const Decoded& d, TableHints* hints) {
  const ZydisDecodedOperand& op = d.operands[0];
  if (op.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    hints->register_jump = true;
  } else if (op.type == ZYDIS_OPERAND_TYPE_MEMORY && op.mem.scale == 8) {
    hints->scaled_jump = true;
  } else {
    hints->other_jump = true;
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

// Reads entries at `base` while they lead into the function; returns how many did.
uint32_t read_table(uint64_t base, bool offsets, const FunctionView& view, const MemoryReader& read,
                    std::vector<uint64_t>* targets) {
  uint32_t count = 0;
  for (; count < kJumpTableEntriesMax; ++count) {
    uint64_t target = 0;
    if (offsets) {
      int32_t rel = 0;
      if (!read(base + 4 * count, &rel, sizeof rel)) break;
      target = base + static_cast<uint64_t>(static_cast<int64_t>(rel));
    } else if (!read(base + 8 * count, &target, sizeof target)) {
      break;
    }
    if (target < view.addr || target >= view.addr + view.size) break;
    targets->push_back(target);
  }
  return count;
}

void resolve_tables(const TableHints& hints, const MemoryReader& read, FunctionView* view) {
  if (!hints.scaled_jump && !hints.register_jump) return;
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
    entries += read_table(base, true, *view, read, &view->branch_targets);
    entries += read_table(base, false, *view, read, &view->branch_targets);
  }
  // `jmp reg` without any table is a tail call through a pointer: it goes to a function's start.
  const bool table_like = hints.scaled_jump || (hints.register_jump && hints.loads_offsets);
  if (entries == 0 && table_like) view->has_unknown_jump = true;
  if (entries == 0 && hints.register_jump) view->has_tail_jump = true;
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
  TableHints hints;
  uint32_t off = 0;
  while (off < size) {
    Decoded d;
    if (!decode_one(bytes.data() + off, bytes.size() - off, &d)) break;
    const Insn insn = classify(d, addr, off);
    note_hints(d, addr + off, &hints);
    if (insn.is_indirect_jump) note_indirect_jump(d, &hints);
    if (insn.branch_target != 0 && !insn.is_call) {
      const bool inside = insn.branch_target >= addr && insn.branch_target < addr + size;
      if (inside) view.branch_targets.push_back(insn.branch_target);
      if (!inside) view.has_tail_jump = true;
    }
    view.insns.push_back(insn);
    off += insn.len;
  }
  view.decoded_end = std::min(off, size);
  if (view.insns.empty()) return fail(EINVAL, "first instruction cannot be decoded");
  if (hints.other_jump) view.has_tail_jump = true;
  resolve_tables(hints, read, &view);
  std::sort(view.branch_targets.begin(), view.branch_targets.end());
  return view;
}

}  // namespace bpftime::rewrite

// SPDX-License-Identifier: MIT
#include "emit_x86_64.h"

#include <cstring>

namespace bpftime::x86 {
namespace {

constexpr uint32_t kGrowPassesMax = 32;  // then every jump takes its near form

bool fits_s8(int64_t value) { return value >= -128 && value <= 127; }
bool fits_s32(int64_t value) { return value == static_cast<int32_t>(value); }

void put32(uint8_t* at, uint32_t value) { std::memcpy(at, &value, sizeof value); }

}  // namespace

Label Emitter::new_label() {
  labels_.push_back({});
  return static_cast<Label>(labels_.size() - 1);
}

void Emitter::bind(Label label) {
  labels_[label] = {static_cast<uint32_t>(code_.size()), static_cast<uint32_t>(branches_.size())};
}

void Emitter::imm32(uint32_t value) {
  const size_t at = code_.size();
  code_.resize(at + 4);
  put32(&code_[at], value);
}

void Emitter::rex(bool wide, uint8_t reg, uint8_t index, uint8_t base, bool force) {
  const auto bits =
      static_cast<uint8_t>((wide ? 8 : 0) | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3);
  if (bits != 0 || force) byte(0x40 | bits);
}

void Emitter::op_reg(uint8_t opcode, uint8_t reg, uint8_t rm, bool wide) {
  rex(wide, reg, 0, rm);
  byte(opcode);
  byte(static_cast<uint8_t>(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void Emitter::modrm_mem(uint8_t reg, const Mem& mem) {
  const bool has_index = mem.index != kRsp;
  const uint8_t base = mem.base & 7;
  const bool needs_sib = has_index || base == kRsp;
  // A base of rbp or r13 has no form without displacement.
  const uint8_t mod = mem.disp == 0 && base != kRbp ? 0 : fits_s8(mem.disp) ? 1 : 2;
  byte(static_cast<uint8_t>(mod << 6 | (reg & 7) << 3 | (needs_sib ? 4 : base)));
  if (needs_sib) {
    const uint8_t scale = mem.scale == 8 ? 3 : mem.scale == 4 ? 2 : mem.scale == 2 ? 1 : 0;
    byte(static_cast<uint8_t>(scale << 6 | (mem.index & 7) << 3 | base));
  }
  if (mod == 1) byte(static_cast<uint8_t>(mem.disp));
  if (mod == 2) imm32(static_cast<uint32_t>(mem.disp));
}

void Emitter::op_mem(uint8_t opcode, uint8_t reg, const Mem& mem, bool wide, bool escape,
                     bool force_rex) {
  rex(wide, reg, mem.index == kRsp ? 0 : mem.index, mem.base, force_rex);
  if (escape) byte(0x0f);
  byte(opcode);
  modrm_mem(reg, mem);
}

void Emitter::jcc(Cond cond, Label target) {
  branches_.push_back({static_cast<uint32_t>(code_.size()), target, cond, 2});
}

void Emitter::call(Label target) {
  byte(0xe8);
  fixups_.push_back({static_cast<uint32_t>(code_.size()), static_cast<uint32_t>(branches_.size()),
                     target, false});
  imm32(0);
}

void Emitter::lea(Reg dst, Label target) {
  rex(true, dst, 0, 0);
  byte(0x8d);
  byte(static_cast<uint8_t>((dst & 7) << 3 | 5));
  fixups_.push_back({static_cast<uint32_t>(code_.size()), static_cast<uint32_t>(branches_.size()),
                     target, false});
  imm32(0);
}

void Emitter::got_operand(uint8_t opcode, uint8_t reg, uint32_t slot, bool wide) {
  rex(wide, reg, 0, 0);
  byte(opcode);
  byte(static_cast<uint8_t>((reg & 7) << 3 | 5));
  fixups_.push_back(
      {static_cast<uint32_t>(code_.size()), static_cast<uint32_t>(branches_.size()), slot, true});
  imm32(0);
}

void Emitter::load_got(Reg dst, uint32_t slot) { got_operand(0x8b, dst, slot, true); }
void Emitter::add_got(Reg dst, uint32_t slot) { got_operand(0x03, dst, slot, true); }
void Emitter::call_got(uint32_t slot) { got_operand(0xff, 2, slot, false); }

void Emitter::mov(Reg dst, Reg src, bool wide) { op_reg(0x89, src, dst, wide); }

void Emitter::mov_imm(Reg dst, uint64_t value) {
  if (value == 0) return zero(dst);
  if (value <= UINT32_MAX) {
    rex(false, 0, 0, dst);
    byte(static_cast<uint8_t>(0xb8 | (dst & 7)));
    return imm32(static_cast<uint32_t>(value));
  }
  if (fits_s32(static_cast<int64_t>(value))) {
    op_reg(0xc7, 0, dst, true);
    return imm32(static_cast<uint32_t>(value));
  }
  rex(true, 0, 0, dst);
  byte(static_cast<uint8_t>(0xb8 | (dst & 7)));
  imm32(static_cast<uint32_t>(value));
  imm32(static_cast<uint32_t>(value >> 32));
}

void Emitter::alu(Alu op, Reg dst, Reg src, bool wide) {
  op_reg(static_cast<uint8_t>(static_cast<uint8_t>(op) << 3 | 1), src, dst, wide);
}

void Emitter::alu_imm(Alu op, Reg dst, int32_t imm, bool wide) {
  const auto digit = static_cast<uint8_t>(op);
  if (fits_s8(imm)) {
    op_reg(0x83, digit, dst, wide);
    return byte(static_cast<uint8_t>(imm));
  }
  if (dst == kRax) {
    rex(wide, 0, 0, 0);
    byte(static_cast<uint8_t>(digit << 3 | 5));
  } else {
    op_reg(0x81, digit, dst, wide);
  }
  imm32(static_cast<uint32_t>(imm));
}

void Emitter::alu_mem_reg(Alu op, Mem mem, Reg src, uint32_t size_bytes, bool lock) {
  if (lock) byte(0xf0);
  op_mem(static_cast<uint8_t>(static_cast<uint8_t>(op) << 3 | 1), src, mem, size_bytes == 8);
}

void Emitter::alu_mem_imm(Alu op, Mem mem, int32_t imm, uint32_t size_bytes, bool lock) {
  if (lock) byte(0xf0);
  const bool is_short = fits_s8(imm);
  op_mem(is_short ? 0x83 : 0x81, static_cast<uint8_t>(op), mem, size_bytes == 8);
  if (is_short) return byte(static_cast<uint8_t>(imm));
  imm32(static_cast<uint32_t>(imm));
}

void Emitter::test(Reg a, Reg b, bool wide) { op_reg(0x85, b, a, wide); }

void Emitter::test_imm(Reg reg, int32_t imm, bool wide) {
  if (imm >= 0 && imm <= 127) {  // the low byte decides
    if (reg == kRax) {
      byte(0xa8);
    } else {
      rex(false, 0, 0, reg, reg >= kRsp);
      byte(0xf6);
      byte(static_cast<uint8_t>(0xc0 | (reg & 7)));
    }
    return byte(static_cast<uint8_t>(imm));
  }
  // A non-negative mask has no bits above 31: the shorter form tests the same.
  const bool rex_w = wide && imm < 0;
  if (reg == kRax) {
    rex(rex_w, 0, 0, 0);
    byte(0xa9);
  } else {
    op_reg(0xf7, 0, reg, rex_w);
  }
  imm32(static_cast<uint32_t>(imm));
}

void Emitter::shift_imm(Shift op, Reg reg, uint8_t count, bool wide) {
  const auto digit = static_cast<uint8_t>(op);
  if (count == 1) return op_reg(0xd1, digit, reg, wide);
  op_reg(0xc1, digit, reg, wide);
  byte(count);
}

void Emitter::shift_cl(Shift op, Reg reg, bool wide) {
  op_reg(0xd3, static_cast<uint8_t>(op), reg, wide);
}

void Emitter::vex(uint8_t map, uint8_t pp, uint8_t reg, uint8_t vvvv, uint8_t rm, bool wide) {
  byte(0xc4);
  byte(static_cast<uint8_t>((reg < 8 ? 0x80 : 0) | 0x40 | (rm < 8 ? 0x20 : 0) | map));
  byte(static_cast<uint8_t>((wide ? 0x80 : 0) | (~vvvv & 15) << 3 | pp));
}

void Emitter::shift_bmi2(Shift op, Reg dst, Reg src, Reg count, bool wide) {
  const uint8_t pp = op == Shift::kShl ? 1 : op == Shift::kSar ? 2 : 3;
  vex(2, pp, dst, count, src, wide);
  byte(0xf7);
  byte(static_cast<uint8_t>(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void Emitter::rorx(Reg dst, Reg src, uint8_t count, bool wide) {
  vex(3, 3, dst, 0, src, wide);
  byte(0xf0);
  byte(static_cast<uint8_t>(0xc0 | (dst & 7) << 3 | (src & 7)));
  byte(count);
}

void Emitter::setcc(Cond cond, Reg reg) {
  rex(false, 0, 0, reg, reg >= kRsp);
  byte(0x0f);
  byte(static_cast<uint8_t>(0x90 | cond));
  byte(static_cast<uint8_t>(0xc0 | (reg & 7)));
}

void Emitter::unary(Unary op, Reg reg, bool wide) {
  op_reg(0xf7, static_cast<uint8_t>(op), reg, wide);
}

void Emitter::imul(Reg dst, Reg src, bool wide) {
  rex(wide, dst, 0, src);
  byte(0x0f);
  byte(0xaf);
  byte(static_cast<uint8_t>(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void Emitter::imul_imm(Reg dst, Reg src, int32_t imm, bool wide) {
  op_reg(fits_s8(imm) ? 0x6b : 0x69, dst, src, wide);
  if (fits_s8(imm)) return byte(static_cast<uint8_t>(imm));
  imm32(static_cast<uint32_t>(imm));
}

void Emitter::sign_extend_rax(bool wide) {
  rex(wide, 0, 0, 0);
  byte(0x99);
}

void Emitter::bswap(Reg reg, bool wide) {
  rex(wide, 0, 0, reg);
  byte(0x0f);
  byte(static_cast<uint8_t>(0xc8 | (reg & 7)));
}

void Emitter::rol16_8(Reg reg) {
  byte(0x66);
  op_reg(0xc1, 0, reg, false);
  byte(8);
}

void Emitter::lea(Reg dst, Mem mem, bool wide) { op_mem(0x8d, dst, mem, wide); }

void Emitter::rdpid(Reg dst) {
  byte(0xf3);
  rex(false, 0, 0, dst);
  byte(0x0f);
  byte(0xc7);
  byte(static_cast<uint8_t>(0xf8 | (dst & 7)));
}

void Emitter::movzx(Reg dst, Reg src, uint32_t from_bytes) {
  if (from_bytes == 4) return mov(dst, src, false);
  rex(false, dst, 0, src, from_bytes == 1 && src >= kRsp);
  byte(0x0f);
  byte(from_bytes == 1 ? 0xb6 : 0xb7);
  byte(static_cast<uint8_t>(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void Emitter::movsx(Reg dst, Reg src, uint32_t from_bytes, bool wide) {
  if (from_bytes == 4) return op_reg(0x63, dst, src, true);
  rex(wide, dst, 0, src, from_bytes == 1 && src >= kRsp);
  byte(0x0f);
  byte(from_bytes == 1 ? 0xbe : 0xbf);
  byte(static_cast<uint8_t>(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void Emitter::load(Reg dst, Mem mem, uint32_t size_bytes) {
  if (size_bytes >= 4) return op_mem(0x8b, dst, mem, size_bytes == 8);
  op_mem(size_bytes == 1 ? 0xb6 : 0xb7, dst, mem, false, true);
}

void Emitter::load_signed(Reg dst, Mem mem, uint32_t size_bytes) {
  if (size_bytes == 4) return op_mem(0x63, dst, mem, true);
  op_mem(size_bytes == 1 ? 0xbe : 0xbf, dst, mem, true, true);
}

void Emitter::store(Mem mem, Reg src, uint32_t size_bytes) {
  if (size_bytes == 2) byte(0x66);
  op_mem(size_bytes == 1 ? 0x88 : 0x89, src, mem, size_bytes == 8, false,
         size_bytes == 1 && src >= kRsp);
}

void Emitter::store_imm(Mem mem, int32_t imm, uint32_t size_bytes) {
  if (size_bytes == 2) byte(0x66);
  op_mem(size_bytes == 1 ? 0xc6 : 0xc7, 0, mem, size_bytes == 8);
  if (size_bytes == 1) return byte(static_cast<uint8_t>(imm));
  if (size_bytes == 2) {
    byte(static_cast<uint8_t>(imm));
    return byte(static_cast<uint8_t>(imm >> 8));
  }
  imm32(static_cast<uint32_t>(imm));
}

void Emitter::xadd(Mem mem, Reg reg, bool wide) {
  byte(0xf0);
  op_mem(0xc1, reg, mem, wide, true);
}

void Emitter::xchg(Mem mem, Reg reg, bool wide) { op_mem(0x87, reg, mem, wide); }

void Emitter::cmpxchg(Mem mem, Reg reg, bool wide) {
  byte(0xf0);
  op_mem(0xb1, reg, mem, wide, true);
}

void Emitter::push(Reg reg) {
  rex(false, 0, 0, reg);
  byte(static_cast<uint8_t>(0x50 | (reg & 7)));
}

void Emitter::jmp_reg(Reg reg) {
  rex(false, 0, 0, reg);
  byte(0xff);
  byte(static_cast<uint8_t>(0xe0 | (reg & 7)));
}

void Emitter::pop(Reg reg) {
  rex(false, 0, 0, reg);
  byte(static_cast<uint8_t>(0x58 | (reg & 7)));
}

void Emitter::endbr64() {
  byte(0xf3);
  byte(0x0f);
  byte(0x1e);
  byte(0xfa);
}

uint32_t Emitter::offset_of(Label label) const {
  return labels_[label].pos + sums_[labels_[label].branch_count];
}

void Emitter::sum_sizes() {
  sums_.resize(branches_.size() + 1);
  sums_[0] = 0;
  for (size_t i = 0; i < branches_.size(); ++i) sums_[i + 1] = sums_[i] + branches_[i].size_bytes;
}

/// Gives each short jump that does not reach its near form. Jumps only grow, so this ends.
bool Emitter::grow_branches() {
  bool grew = false;
  for (size_t i = 0; i < branches_.size(); ++i) {
    Branch& branch = branches_[i];
    if (branch.size_bytes != 2) continue;
    const int64_t end = int64_t{branch.pos} + sums_[i + 1];
    if (fits_s8(int64_t{offset_of(branch.target)} - end)) continue;
    branch.size_bytes = branch.cond == kAlways ? 5 : 6;
    grew = true;
  }
  return grew;
}

std::vector<uint8_t> Emitter::finish() {
  sum_sizes();
  for (uint32_t pass = 0; grow_branches(); sum_sizes()) {
    if (++pass < kGrowPassesMax) continue;
    for (Branch& branch : branches_) branch.size_bytes = branch.cond == kAlways ? 5 : 6;
  }
  std::vector<uint8_t> text;
  text.reserve(code_.size() + sums_.back());
  uint32_t copied = 0;
  for (size_t i = 0; i < branches_.size(); ++i) {
    const Branch& branch = branches_[i];
    text.insert(text.end(), code_.begin() + copied, code_.begin() + branch.pos);
    copied = branch.pos;
    const uint32_t end = branch.pos + sums_[i + 1];
    const uint32_t rel = offset_of(branch.target) - end;
    if (branch.size_bytes == 2) {
      text.push_back(branch.cond == kAlways ? 0xeb : static_cast<uint8_t>(0x70 | branch.cond));
      text.push_back(static_cast<uint8_t>(rel));
      continue;
    }
    if (branch.cond == kAlways) {
      text.push_back(0xe9);
    } else {
      text.push_back(0x0f);
      text.push_back(static_cast<uint8_t>(0x80 | branch.cond));
    }
    text.resize(text.size() + 4);
    put32(&text[text.size() - 4], rel);
  }
  text.insert(text.end(), code_.begin() + copied, code_.end());
  const auto got_off = static_cast<uint32_t>((text.size() + 4095) & ~size_t{4095});
  for (const Fixup& fixup : fixups_) {
    const uint32_t at = fixup.pos + sums_[fixup.branch_count];
    const uint32_t target = fixup.is_got ? got_off + fixup.target * 8 : offset_of(fixup.target);
    put32(&text[at], target - (at + 4));
  }
  return text;
}

}  // namespace bpftime::x86

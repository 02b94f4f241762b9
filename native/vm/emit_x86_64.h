// SPDX-License-Identifier: MIT
// x86-64 instruction emitter: general registers only, position independent. Jumps are recorded
// apart from the bytes and get their short or near form in finish(); GOT references are patched
// once the size of the text is known. Encodings: Intel SDM volume 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "image.h"

namespace bpftime::x86 {

enum Reg : uint8_t {
  kRax,
  kRcx,
  kRdx,
  kRbx,
  kRsp,
  kRbp,
  kRsi,
  kRdi,
  kR8,
  kR9,
  kR10,
  kR11,
  kR12,
  kR13,
  kR14,
  kR15,
};

/// Condition codes as in Jcc opcodes.
enum Cond : uint8_t {
  kB = 2,
  kAe = 3,
  kE = 4,
  kNe = 5,
  kBe = 6,
  kA = 7,
  kL = 12,
  kGe = 13,
  kLe = 14,
  kG = 15,
  kAlways = 16,
};
[[nodiscard]] constexpr Cond negate(Cond cond) { return static_cast<Cond>(cond ^ 1); }

/// Two-operand arithmetic: the /digit of opcode 81, and bits 3-5 of the register forms.
enum class Alu : uint8_t { kAdd, kOr, kAdc, kSbb, kAnd, kSub, kXor, kCmp };
/// Shifts: the /digit of opcode C1.
enum class Shift : uint8_t { kRol = 0, kRor = 1, kShl = 4, kShr = 5, kSar = 7 };
/// Unary operations: the /digit of opcode F7.
enum class Unary : uint8_t { kNot = 2, kNeg = 3, kMul = 4, kDiv = 6, kIdiv = 7 };

/// Memory operand [base + disp] or [base + index * scale + disp].
struct Mem {
  Reg base;
  int32_t disp = 0;
  Reg index = kRsp;   // kRsp: none
  uint8_t scale = 1;  // 1, 2, 4, 8
};

using Label = uint32_t;

class Emitter {
 public:
  Label new_label();
  void bind(Label label);

  void jcc(Cond cond, Label target);
  void jmp(Label target) { jcc(kAlways, target); }
  void call(Label target);
  void lea(Reg dst, Label target);

  void mov(Reg dst, Reg src, bool wide);
  void mov_imm(Reg dst, uint64_t value);
  void zero(Reg dst) { alu(Alu::kXor, dst, dst, false); }
  void alu(Alu op, Reg dst, Reg src, bool wide);
  void alu_imm(Alu op, Reg dst, int32_t imm, bool wide);
  void alu_mem_reg(Alu op, Mem mem, Reg src, uint32_t size_bytes, bool lock);
  void alu_mem_imm(Alu op, Mem mem, int32_t imm, uint32_t size_bytes, bool lock = false);
  void test(Reg a, Reg b, bool wide);
  void test_imm(Reg reg, int32_t imm, bool wide);
  void shift_imm(Shift op, Reg reg, uint8_t count, bool wide);
  void shift_cl(Shift op, Reg reg, bool wide);
  void shift_bmi2(Shift op, Reg dst, Reg src, Reg count, bool wide);
  void rorx(Reg dst, Reg src, uint8_t count, bool wide);
  void setcc(Cond cond, Reg reg);  // writes the low byte only
  void unary(Unary op, Reg reg, bool wide);
  void imul(Reg dst, Reg src, bool wide);
  void imul_imm(Reg dst, Reg src, int32_t imm, bool wide);
  void sign_extend_rax(bool wide);  // cdq, cqo
  void bswap(Reg reg, bool wide);
  void rol16_8(Reg reg);  // swaps the two low bytes
  void lea(Reg dst, Mem mem, bool wide);
  void rdpid(Reg dst);

  void movzx(Reg dst, Reg src, uint32_t from_bytes);
  void movsx(Reg dst, Reg src, uint32_t from_bytes, bool wide);
  void load(Reg dst, Mem mem, uint32_t size_bytes);         // zero extended
  void load_signed(Reg dst, Mem mem, uint32_t size_bytes);  // sign extended to 64 bits
  void store(Mem mem, Reg src, uint32_t size_bytes);
  void store_imm(Mem mem, int32_t imm, uint32_t size_bytes);
  void xadd(Mem mem, Reg reg, bool wide);     // with lock
  void xchg(Mem mem, Reg reg, bool wide);     // locked by itself
  void cmpxchg(Mem mem, Reg reg, bool wide);  // with lock

  void load_got(Reg dst, uint32_t slot);
  void add_got(Reg dst, uint32_t slot);
  void call_got(uint32_t slot);

  void push(Reg reg);
  void pop(Reg reg);
  void ret() { byte(0xc3); }
  void jmp_reg(Reg reg);
  void leave() { byte(0xc9); }
  void endbr64();

  [[nodiscard]] size_t size_min() const { return code_.size(); }

  /// Lays out the text: chooses jump forms and patches every displacement. Call once.
  std::vector<uint8_t> finish();
  /// Offset of a bound label in the finished text.
  [[nodiscard]] uint32_t offset_of(Label label) const;

 private:
  struct Branch {
    uint32_t pos;  // in code_, before which the jump stands
    Label target;
    uint8_t cond;
    uint8_t size_bytes;
  };
  struct LabelPlace {
    uint32_t pos = 0;
    uint32_t branch_count = 0;  // branches emitted before it
  };
  struct Fixup {
    uint32_t pos;  // of a rel32 field in code_, the last four bytes of its instruction
    uint32_t branch_count;
    uint32_t target;  // label or GOT slot
    bool is_got;
  };

  void byte(uint8_t value) { code_.push_back(value); }
  void imm32(uint32_t value);
  void rex(bool wide, uint8_t reg, uint8_t index, uint8_t base, bool force = false);
  void op_reg(uint8_t opcode, uint8_t reg, uint8_t rm, bool wide);
  void op_mem(uint8_t opcode, uint8_t reg, const Mem& mem, bool wide, bool escape = false,
              bool force_rex = false);
  void modrm_mem(uint8_t reg, const Mem& mem);
  void got_operand(uint8_t opcode, uint8_t reg, uint32_t slot, bool wide);
  void vex(uint8_t map, uint8_t pp, uint8_t reg, uint8_t vvvv, uint8_t rm, bool wide);
  bool grow_branches();
  void sum_sizes();

  std::vector<uint8_t> code_;
  std::vector<Branch> branches_;
  std::vector<uint32_t> sums_;  // bytes of all branches before each
  std::vector<LabelPlace> labels_;
  std::vector<Fixup> fixups_;
};

}  // namespace bpftime::x86

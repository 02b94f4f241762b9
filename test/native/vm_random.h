// SPDX-License-Identifier: MIT
// Random programs that are valid, end, and do not depend on where their stack lies, so that any two
// engines must agree on their result. Deterministic by seed.
//
// r6 holds the context (64 bytes) throughout; r9 is the loop counter where there is a loop. Every
// other register always holds a number, except within the few instructions of one memory access.
#pragma once

#include <cstdint>
#include <vector>

#include "vm/isa.h"

namespace vmtest {

class RandomProgram {
 public:
  static constexpr uint32_t kContextBytes = 64;
  static constexpr int32_t kStackBytes = 64;

  explicit RandomProgram(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}

  std::vector<uint64_t> make() {
    const uint32_t functions = chance(3) ? 1 + below(2) : 0;
    alu(0xbf, 6, 1);  // r6 = ctx
    body(functions, 6 + below(40));
    fold_registers();
    put(0x95, 0, 0, 0, 0);
    for (uint32_t f = 0; f < functions; ++f) {
      starts_.push_back(static_cast<uint32_t>(slots_.size()));
      function_depth_ = f + 1;
      alu(0xbf, 6, 1);
      body(f + 1 < functions ? functions : 0, 4 + below(12));
      fold_registers();
      put(0x95, 0, 0, 0, 0);
    }
    for (const Call& call : calls_) patch_call(call);
    return slots_;
  }

 private:
  struct Call {
    uint32_t slot;
    uint32_t function;
  };

  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1dull;
  }
  uint32_t below(uint32_t bound) { return static_cast<uint32_t>((next() >> 33) % bound); }
  bool chance(uint32_t one_in) { return below(one_in) == 0; }

  uint64_t number() {
    constexpr uint64_t kEdges[] = {0,
                                   1,
                                   2,
                                   31,
                                   32,
                                   63,
                                   64,
                                   0x7f,
                                   0x80,
                                   0xff,
                                   0x7fff,
                                   0x8000,
                                   0xffff,
                                   0x7fffffff,
                                   0x80000000,
                                   0xffffffff,
                                   0x100000000,
                                   0x7fffffffffffffff,
                                   0x8000000000000000,
                                   ~0ull,
                                   ~0ull - 1,
                                   0xffffffff80000000};
    if (chance(3)) return next();
    if (chance(4)) return next() & 0xff;
    return kEdges[below(sizeof kEdges / sizeof *kEdges)];
  }
  /// A register that may be written.
  uint8_t any() {
    constexpr uint8_t kRegs[] = {0, 1, 2, 3, 4, 5, 7, 8};
    return kRegs[below(sizeof kRegs)];
  }

  void put(uint8_t opcode, uint8_t dst, uint8_t src, int32_t off, int64_t imm) {
    slots_.push_back(bpftime::isa::encode(
        {opcode, dst, src, static_cast<int16_t>(off), static_cast<int32_t>(imm)}));
  }
  void alu(uint8_t opcode, uint8_t dst, uint8_t src) { put(opcode, dst, src, 0, 0); }
  void load_number(uint8_t reg) {
    const uint64_t value = number();
    if (chance(2)) return put(chance(2) ? 0xb7 : 0xb4, reg, 0, 0, static_cast<int64_t>(value));
    put(0x18, reg, 0, 0, static_cast<int64_t>(value));
    put(0, 0, 0, 0, static_cast<int64_t>(value >> 32));
  }

  void body(uint32_t functions, uint32_t count) {
    for (const uint8_t reg : {0, 1, 2, 3, 4, 5, 7, 8}) load_number(static_cast<uint8_t>(reg));
    for (int32_t off = -kStackBytes; off < 0; off += 8) put(0x7a, 10, 0, off, number());
    const bool loops = chance(4);
    has_counter_ = loops;
    uint32_t loop_start = 0;
    if (loops) {
      put(0xb7, 9, 0, 0, 1 + below(5));
      loop_start = static_cast<uint32_t>(slots_.size());
    }
    skip_until_.clear();
    for (uint32_t i = 0; i < count; ++i) {
      close_skips(false);
      step(functions);
    }
    close_skips(true);
    if (loops) {
      put(0x17, 9, 0, 0, 1);
      const auto back = static_cast<int32_t>(loop_start) - static_cast<int32_t>(slots_.size()) - 1;
      put(0x55, 9, 0, back, 0);
    } else {
      load_number(9);
    }
  }

  /// Forward jumps are opened with an unknown distance and closed after a few steps.
  void close_skips(bool all) {
    for (size_t i = 0; i < skip_until_.size();) {
      if (!all && !chance(3)) {
        ++i;
        continue;
      }
      const uint32_t slot = skip_until_[i];
      bpftime::isa::Insn insn = bpftime::isa::decode(slots_[slot]);
      const auto distance = static_cast<int32_t>(slots_.size() - slot - 1);
      if (insn.opcode == bpftime::isa::kOpJa32) {
        insn.imm = distance;
      } else {
        insn.off = static_cast<int16_t>(distance);
      }
      slots_[slot] = bpftime::isa::encode(insn);
      skip_until_.erase(skip_until_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  void step(uint32_t functions) {
    switch (below(17)) {
      case 16:
        return has_counter_ ? remainder() : small_loop();
      case 0:
      case 1:
        return jump();
      case 2:
        return memory();
      case 3:
        return stack_pointer();
      case 4:
        return atomic();
      case 5:
        return chance(3) ? helper() : pairs();
      case 6:
        return functions > 0 && chance(2) ? local_call(functions) : pairs();
      case 7:
        return chance(3) ? lookup() : division();
      case 8:
        return division();
      case 9:
      case 10:
        return pairs();
      default:
        return random_alu();
    }
  }

  void random_alu() {
    constexpr uint8_t kOps[] = {0x00, 0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0};
    const auto cls = static_cast<uint8_t>(chance(2) ? 7 : 4);
    const uint8_t dst = any();
    if (chance(12)) return put(static_cast<uint8_t>(0x80 | cls), dst, 0, 0, 0);
    if (chance(12)) {
      constexpr uint8_t kSwaps[] = {0xd4, 0xdc, 0xd7};
      return put(kSwaps[below(3)], dst, 0, 0, 16 << below(3));
    }
    if (chance(10)) {
      const int32_t bits = 8 << below(cls == 7 ? 3 : 2);
      return put(static_cast<uint8_t>(0xb8 | cls), dst, any(), bits, 0);
    }
    const uint8_t op = kOps[below(sizeof kOps)];
    if (chance(2)) return put(static_cast<uint8_t>(op | 8 | cls), dst, any(), 0, 0);
    put(static_cast<uint8_t>(op | cls), dst, 0, 0, static_cast<int64_t>(number()));
  }

  void division() {
    const auto op = static_cast<uint8_t>(chance(2) ? 0x30 : 0x90);
    const auto cls = static_cast<uint8_t>(chance(2) ? 7 : 4);
    const int32_t off = chance(2) ? 1 : 0;
    const uint8_t dst = any();
    if (chance(2)) return put(static_cast<uint8_t>(op | 8 | cls), dst, any(), off, 0);
    auto imm = static_cast<int32_t>(number());
    if (imm == 0) imm = 10;
    put(static_cast<uint8_t>(op | cls), dst, 0, off, imm);
  }

  /// A remainder as compilers write it that have none, or nearly.
  void remainder() {
    const uint8_t a = any();
    const uint8_t b = any();
    const uint8_t c = any();
    const uint8_t d = chance(3) ? b : any();
    const auto cls = static_cast<uint8_t>(chance(2) ? 7 : 4);
    const auto by_reg = static_cast<uint8_t>(chance(2) ? 8 : 0);
    const int32_t off = chance(3) ? 1 : 0;
    const uint8_t src = by_reg != 0 ? c : 0;
    auto imm = by_reg != 0 ? 0 : static_cast<int32_t>(number());
    if (by_reg == 0 && imm == 0) imm = 10;
    put(static_cast<uint8_t>(chance(4) ? 0xbf : 0xb8 | cls), a, b, 0, 0);
    put(static_cast<uint8_t>(0x30 | by_reg | cls), a, src, off, imm);
    put(static_cast<uint8_t>(0x20 | by_reg | cls), a, src, 0, chance(9) ? imm ^ 1 : imm);
    if (by_reg != 0) slots_.back() &= 0xffffffff;
    if (d != b) put(static_cast<uint8_t>(chance(4) ? 0xbf : 0xb8 | cls), d, b, 0, 0);
    put(static_cast<uint8_t>(0x18 | cls), d, a, 0, 0);
    if (!chance(4)) load_number(a);
  }

  /// A loop of one block, or one that is entered in its middle and has an arm that leaves it.
  void small_loop() {
    put(0xb7, 9, 0, 0, 1 + below(4));
    const auto here = [&] { return static_cast<int32_t>(slots_.size()); };
    if (chance(2)) {
      const int32_t start = here();
      for (uint32_t i = below(4); i > 0; --i) random_alu();
      put(0x07, 9, 0, 0, -1);
      return put(static_cast<uint8_t>(chance(2) ? 0x55 : 0x56), 9, 0, start - here() - 1, 0);
    }
    put(0x05, 0, 0, 3, 0);
    const int32_t start = here();
    random_alu();
    put(0x07, 9, 0, 0, -1);
    const int32_t leave = here();
    put(0x15, 9, 0, 0, 0);
    random_alu();  // where it is entered: a goto over three slots
    put(static_cast<uint8_t>(chance(2) ? 0x1e : 0x5e), any(), any(), 2, 0);
    random_alu();
    put(0x05, 0, 0, chance(2) ? 2 : 1, 0);
    random_alu();
    put(0x55, 9, 0, start - here() - 1, 0);
    slots_[static_cast<size_t>(leave)] |= static_cast<uint64_t>(here() - leave - 1) << 16;
  }

  /// Neighbours that the compiler likes to fuse, some of them nearly.
  void pairs() {
    const uint8_t a = any();
    const uint8_t b = any();
    const auto cls = static_cast<uint8_t>(chance(2) ? 7 : 4);
    const int32_t width = cls == 7 ? 64 : 32;
    const int32_t n = 1 + static_cast<int32_t>(below(static_cast<uint32_t>(width) - 1));
    const int32_t near = chance(5) ? 1 : 0;
    switch (below(7)) {
      case 0:  // rotation
        put(static_cast<uint8_t>(chance(4) ? 0xbc : 0xb8 | cls), a, b, 0, 0);
        put(static_cast<uint8_t>((chance(2) ? 0x60 : 0x70) | cls), a, 0, 0, n);
        put(static_cast<uint8_t>((chance(2) ? 0x70 : 0x60) | cls), b, 0, 0, width - n - near);
        put(static_cast<uint8_t>(0x48 | cls), chance(2) ? a : b, chance(2) ? a : b, 0, 0);
        if (chance(2)) load_number(chance(2) ? a : b);
        break;
      case 1: {  // extension
        constexpr int32_t kShifts[] = {32, 48, 56, 40};
        const int32_t shift = kShifts[below(4)];
        if (chance(2)) alu(0xbf, a, b);
        put(0x67, a, 0, 0, shift);
        put(chance(2) ? 0x77 : 0xc7, a, 0, 0, shift - near);
        break;
      }
      case 2:  // mov and operation
        put(static_cast<uint8_t>(chance(2) ? 0xbc : 0xbf), a, b, 0, 0);
        random_alu();
        break;
      case 3: {  // boolean
        const auto kind = static_cast<uint8_t>(chance(2) ? 5 : 6);
        const uint32_t one = below(2);
        put(static_cast<uint8_t>(chance(2) ? 0xb7 : 0xb4), a, 0, 0, one);
        put(static_cast<uint8_t>((chance(2) ? 0x10 : 0x60) | kind), b, 0, 1,
            static_cast<int64_t>(number()));
        put(static_cast<uint8_t>(chance(2) ? 0xb7 : 0xb4), near ? b : a, 0, 0, one ^ 1);
        break;
      }
      case 4: {  // branch around a goto
        const auto kind = static_cast<uint8_t>(chance(2) ? 5 : 6);
        put(static_cast<uint8_t>((chance(2) ? 0x40 : 0xc0) | kind), b, 0, 1,
            static_cast<int64_t>(number()));
        skip_until_.push_back(static_cast<uint32_t>(slots_.size()));
        put(0x05, 0, 0, 0, 0);
        break;
      }
      case 5: {  // load through a sum
        const uint8_t index = a == b ? 9 : b;
        const auto off = static_cast<int32_t>(below(kContextBytes - 7 - 8));
        put(0xb7, index == 9 ? a : index, 0, 0, 8);
        if (index == 9) {
          put(0x0f, a, 6, 0, 0);
          put(0x71, a, a, off, 0);
          break;
        }
        put(0xbf, a, 6, 0, 0);
        put(0x0f, a, index, 0, 0);
        put(static_cast<uint8_t>(chance(2) ? 0x79 : 0x91), near ? index : a, a, off, 0);
        if (near) load_number(a);
        break;
      }
      default:  // mov32 of itself
        alu(0xbc, a, a);
    }
  }

  void jump() {
    constexpr uint8_t kConds[] = {0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0};
    skip_until_.push_back(static_cast<uint32_t>(slots_.size()));
    if (chance(10)) return put(chance(2) ? 0x05 : 0x06, 0, 0, 0, 0);
    const auto cls = static_cast<uint8_t>(chance(2) ? 5 : 6);
    const uint8_t cond = kConds[below(sizeof kConds)];
    if (chance(2)) return put(static_cast<uint8_t>(cond | 8 | cls), any(), any(), 0, 0);
    put(static_cast<uint8_t>(cond | cls), any(), 0, 0, static_cast<int64_t>(number()));
  }

  /// Base register and offset of a place with room for 8 bytes.
  uint8_t place(int32_t* off) {
    const bool on_stack = chance(2);
    *off = static_cast<int32_t>(below(kStackBytes - 7)) - (on_stack ? kStackBytes : 0);
    return on_stack ? 10 : 6;
  }

  void memory() {
    int32_t off = 0;
    const uint8_t base = place(&off);
    const auto size = static_cast<uint8_t>(below(4) << 3);
    switch (below(5)) {
      case 0:
        return put(static_cast<uint8_t>(0x61 | size), any(), base, off, 0);
      case 1:
        return put(static_cast<uint8_t>(0x81 | (size == 0x18 ? 0 : size)), any(), base, off, 0);
      case 2:
        return put(static_cast<uint8_t>(0x62 | size), base, 0, off, static_cast<int64_t>(number()));
      case 3:
        return put(static_cast<uint8_t>(0x63 | size), base, any(), off, 0);
      default: {  // read, change, write
        const uint8_t reg = any();
        const auto wide = static_cast<uint8_t>(chance(2) ? 0x18 : 0x00);
        put(static_cast<uint8_t>(0x61 | wide), reg, base, off, 0);
        put(static_cast<uint8_t>(chance(3) ? 0x04 : 0x07), reg, 0, 0,
            static_cast<int64_t>(number()));
        put(static_cast<uint8_t>(0x63 | wide), base, reg, off, 0);
        if (chance(2)) load_number(reg);
      }
    }
  }

  void stack_pointer() {
    const uint8_t reg = any();
    uint8_t value = any();
    if (value == reg) value = reg == 8 ? 7 : 8;
    const auto off = static_cast<int32_t>(below(kStackBytes - 7));
    alu(0xbf, reg, 10);
    put(0x07, reg, 0, 0, off - kStackBytes);
    if (chance(2)) {
      put(0x7b, reg, value, 0, 0);
    } else {
      put(0x79, value, reg, 0, 0);
    }
    if (chance(2)) {
      put(0x79, reg, reg, 0, 0);
    } else {
      load_number(reg);
    }
  }

  void atomic() {
    constexpr int32_t kOps[] = {0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xa0, 0xa1, 0xe1, 0xf1};
    int32_t off = 0;
    uint8_t base = place(&off);
    const auto opcode = static_cast<uint8_t>(chance(2) ? 0xdb : 0xc3);
    if (chance(6)) {
      const auto size = static_cast<uint8_t>(below(4) << 3);
      if (chance(2)) return put(static_cast<uint8_t>(0xc3 | size), any(), base, off, 0x100);
      return put(static_cast<uint8_t>(0xc3 | size), base, any(), off, 0x110);
    }
    if (base == 6 && chance(3)) {  // through r0, which the loop around cmpxchg needs itself
      alu(0xbf, 0, 6);
      base = 0;
    }
    const int32_t op = kOps[below(sizeof kOps / sizeof *kOps)];
    // As an operand, r0 would put an address into memory.
    uint8_t src = any();
    if (base == 0 && src == 0) src = 7;
    put(opcode, base, src, off, op);
    if (base == 0) load_number(0);
  }

  void reload_arguments() {
    for (uint8_t reg = 1; reg <= 5; ++reg) load_number(reg);
  }

  void helper() {
    put(0x85, 0, 0, 0, chance(2) ? 2 : 3);
    reload_arguments();
  }

  void local_call(uint32_t functions) {
    if (function_depth_ >= functions) return pairs();
    alu(0xbf, 1, 6);
    calls_.push_back({static_cast<uint32_t>(slots_.size()), function_depth_});
    put(0x85, 0, 1, 0, 0);
    reload_arguments();
  }

  /// Array lookup with a check, in the shapes that compilers make.
  void lookup() {
    const int32_t off = -8 + static_cast<int32_t>(below(2)) * 4;
    if (chance(2)) {
      put(0x62, 10, 0, off, below(7));
    } else {
      const uint8_t reg = any();
      put(chance(2) ? 0xb7 : 0xb4, reg, 0, 0, below(7));
      put(0x63, 10, reg, off, 0);
    }
    if (chance(3))
      skip_until_.push_back(static_cast<uint32_t>(slots_.size())), put(0x15, 7, 0, 0, 3);
    if (chance(4)) put(0x6a, 10, 0, off, below(3));
    alu(0xbf, 2, 10);
    put(0x07, 2, 0, 0, off);
    put(0x18, 1, 1, 0, 7 + below(2));
    put(0, 0, 0, 0, 0);
    put(0x85, 0, 0, 0, 1);
    if (chance(2)) {
      put(0x15, 0, 0, 2, 0);  // if r0 == 0 skip the access
    } else {
      put(0x55, 0, 0, 1, 0);
      put(0x05, 0, 0, 2, 0);
    }
    put(0x7b, 0, 8, 0, 0);
    put(0x79, 8, 0, 0, 0);
    load_number(0);
    reload_arguments();
  }

  void fold_registers() {
    for (const uint8_t reg : {1, 2, 3, 4, 5, 7, 8, 9}) {
      put(0x27, 0, 0, 0, 31);
      alu(0x0f, 0, static_cast<uint8_t>(reg));
    }
    for (int32_t off = -kStackBytes; off < 0; off += 8) {
      put(0x79, 1, 10, off, 0);
      put(0x27, 0, 0, 0, 31);
      alu(0x0f, 0, 1);
    }
  }

  void patch_call(const Call& call) {
    bpftime::isa::Insn insn = bpftime::isa::decode(slots_[call.slot]);
    insn.imm = static_cast<int32_t>(starts_[call.function]) - static_cast<int32_t>(call.slot) - 1;
    slots_[call.slot] = bpftime::isa::encode(insn);
  }

  uint64_t state_;
  std::vector<uint64_t> slots_;
  std::vector<uint32_t> skip_until_;
  std::vector<Call> calls_;
  std::vector<uint32_t> starts_;
  bool has_counter_ = false;  // r9 counts the turns of a loop around everything
  uint32_t function_depth_ = 0;
};

}  // namespace vmtest

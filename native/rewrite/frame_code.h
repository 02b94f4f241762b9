// SPDX-License-Identifier: MIT
// FrameCode: the instructions by which trampolines reach their frame. Its first words are those of
// struct probe_frame; rsp is where it begins, or it is flat.
#pragma once

#include "emit.h"

namespace bpftime::rewrite {

constexpr uint32_t kRedZone = 128;
/// A flat frame lies below the stack pointer at a function's entry or `ret`: nothing is live there,
/// and signal handlers keep away. It has room for registers only.
constexpr int32_t kFlatBase = -static_cast<int32_t>(kRedZone);

class FrameCode {
 protected:
  explicit FrameCode(uint64_t addr) : code_(addr) {}

  // mov [frame + disp], reg  /  mov reg, [frame + disp]
  void store(uint8_t reg, uint32_t disp) { move(0x89, reg, disp); }
  void load(uint8_t reg, uint32_t disp) { move(0x8b, reg, disp); }

  // lea rsp, [rsp + delta]: moves the stack without touching flags.
  void move_rsp(int32_t delta) {
    code_.put({0x48, 0x8d, 0xa4, 0x24});
    code_.put_u32(static_cast<uint32_t>(delta));
  }
  void lea_slot(int modrm, uint32_t disp) {  // lea reg, [rsp + disp]
    code_.put({0x48, 0x8d, modrm, 0x24});
    code_.put_u32(disp);
  }
  void mov_rax_imm(uint64_t value) {
    if (value <= UINT32_MAX) {
      code_.put({0xb8});
      code_.put_u32(static_cast<uint32_t>(value));
    } else {
      code_.put({0x48, 0xb8});
      code_.put_u64(value);
    }
  }
  // mov qword [rsp+disp], imm32
  void store_imm32(uint32_t disp, int32_t value) {
    code_.put({0x48, 0xc7, 0x84, 0x24});
    code_.put_u32(disp);
    code_.put_u32(static_cast<uint32_t>(value));
  }
  void call_slot(uint64_t slot) {
    code_.put({0xff, 0x15});
    code_.put_rel32(slot);
  }

  CodeBuffer code_;
  bool is_flat_ = false;

 private:
  void move(uint8_t opcode, uint8_t reg, uint32_t disp_in_frame) {
    const int32_t disp = static_cast<int32_t>(disp_in_frame) + (is_flat_ ? kFlatBase : 0);
    code_.put({0x48 | (reg >= 8 ? 4 : 0), opcode});
    if (disp >= INT8_MIN && disp <= INT8_MAX) {
      code_.put({0x44 | ((reg & 7) << 3), 0x24, disp});
    } else {
      code_.put({0x84 | ((reg & 7) << 3), 0x24});
      code_.put_u32(static_cast<uint32_t>(disp));
    }
  }
};

}  // namespace bpftime::rewrite

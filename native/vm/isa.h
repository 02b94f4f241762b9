// SPDX-License-Identifier: MIT
// The eBPF instruction set (RFC 9669, plus load-acquire/store-release and callx): opcode fields,
// decoding of one 8-byte slot, and text of one instruction. No policy: validate.cc says what is
// legal.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace bpftime::isa {

enum Class : uint8_t { kLd, kLdx, kSt, kStx, kAlu, kJmp, kJmp32, kAlu64 };

enum AluOp : uint8_t {
  kAdd = 0x00,
  kSub = 0x10,
  kMul = 0x20,
  kDiv = 0x30,
  kOr = 0x40,
  kAnd = 0x50,
  kLsh = 0x60,
  kRsh = 0x70,
  kNeg = 0x80,
  kMod = 0x90,
  kXor = 0xa0,
  kMov = 0xb0,
  kArsh = 0xc0,
  kEnd = 0xd0,
};

enum JmpOp : uint8_t {
  kJa = 0x00,
  kJeq = 0x10,
  kJgt = 0x20,
  kJge = 0x30,
  kJset = 0x40,
  kJne = 0x50,
  kJsgt = 0x60,
  kJsge = 0x70,
  kCall = 0x80,
  kExit = 0x90,
  kJlt = 0xa0,
  kJle = 0xb0,
  kJslt = 0xc0,
  kJsle = 0xd0,
  kJcond = 0xe0,
};

enum Mode : uint8_t {
  kModeImm = 0x00,
  kModeAbs = 0x20,
  kModeInd = 0x40,
  kModeMem = 0x60,
  kModeMemsx = 0x80,
  kModeAtomic = 0xc0,
};

enum Size : uint8_t { kW = 0x00, kH = 0x08, kB = 0x10, kDw = 0x18 };

inline constexpr uint8_t kSrcReg = 0x08;  // the X bit of ALU and JMP opcodes
inline constexpr uint8_t kOpLddw = 0x18;
inline constexpr uint8_t kOpJa = 0x05;
inline constexpr uint8_t kOpJa32 = 0x06;
inline constexpr uint8_t kOpCall = 0x85;
inline constexpr uint8_t kOpCallx = 0x8d;
inline constexpr uint8_t kOpExit = 0x95;
inline constexpr uint8_t kOpLe = 0xd4;
inline constexpr uint8_t kOpBe = 0xdc;
inline constexpr uint8_t kOpBswap = 0xd7;

// src field of lddw
inline constexpr uint8_t kPseudoMapFd = 1;
inline constexpr uint8_t kPseudoMapValue = 2;
inline constexpr uint8_t kPseudoVarAddr = 3;
inline constexpr uint8_t kPseudoFunc = 4;
inline constexpr uint8_t kPseudoMapIdx = 5;
inline constexpr uint8_t kPseudoMapIdxValue = 6;
// src field of call
inline constexpr uint8_t kCallHelper = 0;
inline constexpr uint8_t kCallLocal = 1;
inline constexpr uint8_t kCallKfunc = 2;

// imm of atomic instructions
inline constexpr int32_t kAtomicFetch = 0x01;
inline constexpr int32_t kAtomicXchg = 0xe1;
inline constexpr int32_t kAtomicCmpxchg = 0xf1;
inline constexpr int32_t kAtomicLoadAcq = 0x100;
inline constexpr int32_t kAtomicStoreRel = 0x110;

inline constexpr uint8_t kFrameReg = 10;

/// One decoded 8-byte slot.
struct Insn {
  uint8_t opcode;
  uint8_t dst;
  uint8_t src;
  int16_t off;
  int32_t imm;

  [[nodiscard]] Class cls() const { return static_cast<Class>(opcode & 7); }
  [[nodiscard]] uint8_t op() const { return opcode & 0xf0; }
  [[nodiscard]] bool src_is_reg() const { return (opcode & kSrcReg) != 0; }
  [[nodiscard]] uint8_t mode() const { return opcode & 0xe0; }
  [[nodiscard]] uint8_t size() const { return opcode & 0x18; }
  [[nodiscard]] uint32_t size_bytes() const {
    constexpr uint8_t kBytes[] = {4, 2, 1, 8};
    return kBytes[size() >> 3];
  }
  [[nodiscard]] bool is_alu() const { return cls() == kAlu || cls() == kAlu64; }
  [[nodiscard]] bool is_jmp() const { return cls() == kJmp || cls() == kJmp32; }
  [[nodiscard]] bool is_lddw() const { return opcode == kOpLddw; }
  [[nodiscard]] bool is_goto() const { return opcode == kOpJa || opcode == kOpJa32; }
  [[nodiscard]] bool is_exit() const { return opcode == kOpExit; }
  [[nodiscard]] bool is_call() const { return opcode == kOpCall || opcode == kOpCallx; }
  /// A jump with a condition.
  [[nodiscard]] bool is_branch() const {
    return is_jmp() && op() != kJa && op() != kCall && op() != kExit;
  }
  [[nodiscard]] bool is_atomic() const { return cls() == kStx && mode() == kModeAtomic; }
  /// Distance of a goto or branch, in slots from the next one.
  [[nodiscard]] int32_t jump_off() const { return opcode == kOpJa32 ? imm : off; }
  /// Register that holds the callee of callx: older compilers put its number into imm.
  [[nodiscard]] uint8_t callx_reg() const {
    return dst == 0 && imm > 0 ? static_cast<uint8_t>(imm) : dst;
  }
  bool operator==(const Insn&) const = default;
};

[[nodiscard]] constexpr Insn decode(uint64_t slot) {
  return Insn{static_cast<uint8_t>(slot), static_cast<uint8_t>((slot >> 8) & 15),
              static_cast<uint8_t>((slot >> 12) & 15), static_cast<int16_t>(slot >> 16),
              static_cast<int32_t>(slot >> 32)};
}

[[nodiscard]] constexpr uint64_t encode(const Insn& insn) {
  return insn.opcode | uint64_t{insn.dst} << 8 | uint64_t{insn.src} << 12 |
         uint64_t{static_cast<uint16_t>(insn.off)} << 16 |
         uint64_t{static_cast<uint32_t>(insn.imm)} << 32;
}

/// The 64-bit immediate of an lddw of kind 0.
[[nodiscard]] constexpr uint64_t lddw_imm(const Insn& first, const Insn& second) {
  return static_cast<uint32_t>(first.imm) | uint64_t{static_cast<uint32_t>(second.imm)} << 32;
}

/// Registers an instruction reads and writes, as bit masks. A call reads r1-r5 and writes r0-r5.
struct RegUse {
  uint16_t reads;
  uint16_t writes;
};
[[nodiscard]] RegUse reg_use(const Insn& insn);

/// Text of the instruction at `index`, in the syntax of asm.h; ".raw 0x…" if it is not one.
/// `next` is the following slot (lddw), 0 at the end.
[[nodiscard]] std::string disasm(uint64_t slot, uint64_t next, uint32_t index);

/// One line per instruction: "INDEX: text".
[[nodiscard]] std::string disasm_all(std::span<const uint64_t> slots);

}  // namespace bpftime::isa
